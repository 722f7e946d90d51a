"""Runs the pipeline's autoencoder on a clip, one chunk of frames at a time, in whole frames or in tiles."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.diffusion.noise import frame_noise
from star_jax.diffusion.tiles import Tiles, scan_tiles
from star_jax.inference.color_fix import ON_FULL_SIZE, fix_colors, keep_flat_areas
from star_jax.models.light_decoder.decoder import LOW_FACTOR, pack, unpack
from star_jax.models.posterior import DiagonalGaussian
from star_jax.models.video_model import Carry, Params, VideoModel
from star_jax.ops.pixels import enlarge, to_float, to_pixels
from star_jax.video.geometry import Padding


@dataclass(frozen=True)
class Canvas:
    """Layout of frames for the autoencoder; a static argument of the compiled programs.

    Attributes:
      target: (height, width) of the output.
      padding: padding from `target` to a size that the network takes.
      padding_value: constant that pads frames in [-1, 1]; None repeats the border.
      tiles: tiles for the autoencoder.
    """

    target: tuple[int, int]
    padding: Padding
    padding_value: float | None
    tiles: Tiles


@dataclass(frozen=True)
class Finish:
    """Treatment of decoded frames; a static argument of the compiled programs.

    Attributes:
      color_fix: `adain`, `wavelet`, `flat-wavelet` or `none`.
      strength: share of the result in the output; the rest is the enlarged input.
    """

    color_fix: str = "none"
    strength: float = 1.0


@partial(jax.jit, static_argnames=("model", "canvas"))
def encode_chunk(
    model: VideoModel,
    canvas: Canvas,
    params: Params,
    frames: jax.Array,
    carry: Carry,
    key: jax.Array,
    first_latent: jax.Array,
) -> tuple[jax.Array, Carry]:
    """Encodes uint8 or uint16 [F, H, W, 3] to (latents [f, h, w, C], carry).

    The noise depends on the position of the first latent in the clip.
    """
    enlarged = canvas.padding.apply(model.enlarge(frames, canvas.target), canvas.padding_value)

    def moments(carry: Carry, frames: jax.Array) -> tuple[jax.Array, Carry]:
        posterior, carry = model.encode(params, frames, carry)
        return jnp.concatenate([posterior.mean, posterior.logvar], axis=-1), carry

    factor = model.size_rule.pixels_per_latent
    joined, carry = scan_tiles(moments, canvas.tiles, carry, enlarged[None], in_factor=factor)
    posterior = DiagonalGaussian.from_moments(joined)
    noise = frame_noise(key, "posterior", posterior.mean.shape, first_frame=first_latent)
    return model.scaled(posterior.sample(noise))[0], carry


@partial(jax.jit, static_argnames=("model", "canvas", "finish"), donate_argnames="carry")
def decode_chunk(
    model: VideoModel,
    canvas: Canvas,
    finish: Finish,
    params: Params,
    latents: jax.Array,
    carry: Carry,
    first: jax.Array,
    frames_lr: jax.Array,
) -> tuple[jax.Array, jax.Array, Carry]:
    """Decodes latents [1, f, h, w, C], and keeps as many frames from `first` on as `frames_lr` has.

    The buffer of `carry` is donated to the carry that is returned.

    Returns:
      frames [k, H, W, 3] with the dtype and colours of `frames_lr` (uint8 or uint16 [k, H', W', 3]), blended with
      the enlarged input if the strength is below 1; whether all values are finite; and the carry.
    """

    def decode(carry: Carry, latents: jax.Array) -> tuple[jax.Array, Carry]:
        return model.decode(params, latents, carry)

    factor = model.size_rule.pixels_per_latent
    decoded, carry = scan_tiles(decode, canvas.tiles, carry, latents, out_factor=factor)
    kept = jax.lax.dynamic_slice_in_dim(decoded[0], first, len(frames_lr))
    frames = _finished(canvas.padding.crop(kept.astype(jnp.float32)), to_float(frames_lr), finish)
    return to_pixels(frames, frames_lr.dtype), jnp.isfinite(kept).all(), carry


def _finished(frames: jax.Array, low: jax.Array, finish: Finish) -> jax.Array:
    """Decoded frames [F, H, W, 3] with the colours of the input [F, H', W', 3], blended with it by the strength."""
    size = (frames.shape[1], frames.shape[2])
    reference = enlarge(low, size) if finish.color_fix in ON_FULL_SIZE else low
    frames = fix_colors(frames, reference, method=finish.color_fix)
    if finish.strength < 1:
        frames = finish.strength * frames + (1 - finish.strength) * enlarge(low, size)
    return frames


@partial(jax.jit, static_argnames=("model", "canvas", "finish"))
def decode_light_chunk(
    model: VideoModel,
    canvas: Canvas,
    finish: Finish,
    params: Params,
    latents: jax.Array,
    carry: Carry,
    fidelity: jax.Array,
    frames_lr: jax.Array,
) -> tuple[jax.Array, jax.Array, Carry]:
    """Like `decode_chunk`, with the light decoder, which makes as many frames as there are latents.

    A light decoder that sees the input keeps its colours, so the only part of a colour fix that it needs is that of
    flat areas.
    """
    low = to_float(frames_lr)
    if not model.light_sees_frames:

        def decode_latents(carry: Carry, latents: jax.Array) -> tuple[jax.Array, Carry]:
            return model.decode_light(params, latents, None, fidelity, carry)

        factor = model.size_rule.pixels_per_latent
        decoded, carry = scan_tiles(decode_latents, canvas.tiles, carry, latents, out_factor=factor)
        frames = _finished(canvas.padding.crop(decoded[0].astype(jnp.float32)), low, finish)
        return to_pixels(frames, frames_lr.dtype), jnp.isfinite(decoded).all(), carry
    grid = -(-canvas.target[0] // LOW_FACTOR), -(-canvas.target[1] // LOW_FACTOR)
    padding, (rows, columns) = canvas.padding, latents.shape[2:4]
    # The input's pixels lie on the decoder's grid: at the trained scale nothing is resampled. If the padding is not
    # a multiple of an input pixel's size, the latents are off by less than one input pixel.
    top, left = padding.top // LOW_FACTOR, padding.left // LOW_FACTOR
    on_grid = low if low.shape[1:3] == grid else jax.image.resize(low, (len(low), *grid, 3), "bilinear")
    around = Padding(top, 2 * rows - grid[0] - top, left, 2 * columns - grid[1] - left)
    packed = pack(around.apply(on_grid, canvas.padding_value)[None])

    def decode(carry: Carry, joined: jax.Array) -> tuple[jax.Array, Carry]:
        latents, packed = jnp.split(joined, [model.latent_channels], axis=-1)
        return model.decode_light(params, latents, unpack(packed), fidelity, carry)

    joined = jnp.concatenate([latents, packed], axis=-1)
    decoded, carry = scan_tiles(decode, canvas.tiles, carry, joined, out_factor=2 * LOW_FACTOR)
    at_factor = Padding(*(LOW_FACTOR * side for side in dataclasses.astuple(around)))
    frames = at_factor.crop(decoded[0].astype(jnp.float32))
    if frames.shape[1:3] != canvas.target:
        frames = jax.image.resize(frames, (len(frames), *canvas.target, 3), "bilinear")
    if finish.color_fix == "flat-wavelet":
        frames = keep_flat_areas(frames, enlarge(low, canvas.target))
    if finish.strength < 1:
        frames = finish.strength * frames + (1 - finish.strength) * enlarge(low, canvas.target)
    return to_pixels(frames, frames_lr.dtype), jnp.isfinite(decoded).all(), carry


def cut_pieces(pieces: Iterable[np.ndarray], sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Cuts a clip that comes in pieces [f, H, W, 3] into pieces of the given sizes; the last may be short.

    A piece that already has its size is not copied. Finally `pieces` is read to its end, where a reader reports
    whether the clip was complete.
    """
    waiting: list[np.ndarray] = []
    pieces = iter(pieces)
    for size in sizes:
        while sum(map(len, waiting)) < size and (piece := next(pieces, None)) is not None:
            waiting.append(piece)
        if not waiting:
            break
        whole = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        del waiting[:]
        if len(whole) > size:
            waiting.append(whole[size:])
            whole = whole[:size]
        piece = None  # otherwise the generator would keep these pixels while the next ones are read
        yield whole
        del whole
    for _ in pieces:
        pass


def cut_ranges(pieces: Iterable[np.ndarray], ranges: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
    """Cuts a clip that comes in pieces [f, H, W, 3] into ranges [start, stop) that may overlap.

    Like `cut_pieces`; only frames that are still needed stay in memory.
    """
    pieces = iter(pieces)
    held: list[np.ndarray] = []
    first = 0  # position of the first frame held
    for i, (start, stop) in enumerate(ranges):
        while first + sum(map(len, held)) < stop and (piece := next(pieces, None)) is not None:
            held.append(piece)
        piece = None  # see `cut_pieces`
        whole = held[0] if len(held) == 1 else np.concatenate(held) if held else np.zeros((0, 1, 1, 3))
        del held[:]
        cut = whole[start - first : stop - first]
        if not len(cut):
            break
        wanted = min((start for start, _ in ranges[i + 1 :]), default=first + len(whole))
        if wanted < first + len(whole):
            held.append(whole[wanted - first :].copy())
        first = min(wanted, first + len(whole))
        del whole
        yield cut
        del cut
    for _ in pieces:
        pass


def fill_piece(frames: np.ndarray, count: int, *, at_end: bool) -> np.ndarray:
    """Pads a short piece [f, H, W, 3] to `count` frames by repeating its last (or first) frame."""
    missing = count - len(frames)
    return np.pad(frames, ((0, missing) if at_end else (missing, 0), (0, 0), (0, 0), (0, 0)), mode="edge")
