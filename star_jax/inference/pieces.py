"""How the pipeline's VAE works on a clip: a few frames at a time, whole or in tiles."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from star_jax.diffusion.noise import frame_noise
from star_jax.diffusion.tiles import Tiles, map_tiles
from star_jax.inference.color_fix import fix_colors
from star_jax.models.svd_vae.vae import DiagonalGaussian
from star_jax.ops.pixels import enlarge, to_float, to_uint8
from star_jax.video.geometry import Padding

PIECE = 3  # frames decoded together, as in the released system; also read and encoded together


def encode_piece(
    graphdef: nnx.GraphDef,
    scaling_factor: float,
    params: dict,
    frames: jax.Array,
    key: jax.Array,
    first_frame: jax.Array,
    *,
    target: tuple[int, int],
    padding: Padding,
    padding_value: float | None,
    tiles: Tiles,
) -> jax.Array:
    """uint8 [f, H, W, 3] -> latents [f, h, w, 4]; the posterior's noise is keyed by the frame's number."""
    enlarged = padding.apply(enlarge(to_float(frames), target), padding_value)

    def moments(frames: jax.Array) -> jax.Array:
        posterior = nnx.merge(graphdef, params).encode(frames)
        return jnp.concatenate([posterior.mean, posterior.logvar], axis=-1)

    factor = enlarged.shape[1] // tiles.full[0]
    posterior = DiagonalGaussian.from_moments(map_tiles(moments, tiles, enlarged[None], in_factor=factor))
    noise = frame_noise(key, "posterior", posterior.mean.shape, first_frame=first_frame)
    return posterior.sample(noise)[0] * scaling_factor


def decode_piece(
    graphdef: nnx.GraphDef,
    scaling_factor: float,
    params: dict,
    latents: jax.Array,
    first: jax.Array,
    frames_lr: jax.Array,
    *,
    padding: Padding,
    color_fix: str,
    tiles: Tiles,
    spatial_factor: int,
    strength: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Decodes latents [1, f, h, w, 4] and keeps the frames from `first` on, as many as `frames_lr` has.

    Returns:
      uint8 [k, H, W, 3] with the colours of frames_lr (uint8 [k, H', W', 3]), blended with those enlarged where
      `strength` is below 1, and whether all was finite.
    """

    def decode(latents: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params).decode(latents)

    decoded = map_tiles(decode, tiles, latents / scaling_factor, out_factor=spatial_factor)[0]
    kept = jax.lax.dynamic_slice_in_dim(decoded, first, len(frames_lr))
    frames = padding.crop(kept.astype(jnp.float32))
    reference = to_float(frames_lr)
    if color_fix == "wavelet":
        reference = enlarge(reference, frames.shape[1:3])
    frames = fix_colors(frames, reference, method=color_fix)
    if strength < 1:
        frames = strength * frames + (1 - strength) * enlarge(to_float(frames_lr), frames.shape[1:3])
    return to_uint8(frames), jnp.isfinite(kept).all()


def fill_piece(frames: np.ndarray, count: int, *, at_end: bool) -> np.ndarray:
    """Fills a short piece [f, H, W, 3] up to `count` frames by repeating its last (or first) one."""
    missing = count - len(frames)
    return np.pad(frames, ((0, missing) if at_end else (missing, 0), (0, 0), (0, 0), (0, 0)), mode="edge")


def decode_group(num_frames: int, start: int, count: int, overlap: int) -> tuple[int, int, int, int]:
    """Which latents are decoded together for frames [start, start + count).

    Without overlap they are exactly those frames, as in the released system: a short last group is a program of
    its own, because the decoder's temporal layers see zeros beyond a group's end, so that neither padding nor
    shifting it would give the same frames. With overlap, all groups are of one length, shifted into the clip.

    Args:
      num_frames: of the clip.
      start: first frame wanted.
      count: frames wanted, at most PIECE.
      overlap: frames decoded before and after those, for the temporal layers to see.

    Returns:
      (first latent, latents, first kept frame among the decoded, frames kept); of these the last `count` are the
      wanted ones.
    """
    if overlap == 0:
        return start, count, 0, count
    kept, length = min(PIECE, num_frames), min(PIECE + 2 * overlap, num_frames)
    first_kept = min(start, num_frames - kept)
    first = min(max(first_kept - overlap, 0), num_frames - length)
    return first, length, first_kept - first, kept
