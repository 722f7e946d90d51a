"""Frames as rows of tokens, and back, with the channels innermost in memory on a TPU.

A TPU's compiler may keep the pixels innermost instead. The change of shape, which is free otherwise, then moves all
activations, by large kernels that take seconds each to compile.
"""

import jax
from einops import rearrange
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from star_jax.ops.platform import target_platform
from star_jax.parallel.activations import NO_SHARES, FrameShares, frame_shares, on_several_devices


def frames_to_tokens(x: Float[Array, "B F H W C"]) -> Float[Array, "N P C"]:
    """[B, F, H, W, C] -> [B F, H W, C], one sequence a frame. On a mesh, their order is that of the devices."""
    shares = _shares(x.shape)
    return _reshape(x, "b f h w c -> (b f) (h w) c", shares.clips, shares.frames)


def tokens_to_frames(tokens: Float[Array, "N P C"], shape: tuple[int, ...]) -> Float[Array, "B F H W C"]:
    """The inverse of `frames_to_tokens` for a video of this shape [B, F, H, W, C]."""
    shares = _shares(shape)
    sizes = {"f": shape[1] // shares.devices, "h": shape[2]}
    return _reshape(tokens, "(b f) (h w) c -> b f h w c", shares.frames, shares.clips, **sizes)


def clip_to_tokens(x: Float[Array, "B F H W C"]) -> Float[Array, "B N C"]:
    """[B, F, H, W, C] -> [B, F H W, C], one sequence a clip."""
    clips = _shares(x.shape).clips
    return _reshape(x, "b f h w c -> b (f h w) c", clips, clips)


def tokens_to_clip(tokens: Float[Array, "B N C"], shape: tuple[int, ...]) -> Float[Array, "B F H W C"]:
    """The inverse of `clip_to_tokens` for a video of this shape [B, F, H, W, C]."""
    clips = _shares(shape).clips
    return _reshape(tokens, "b (f h w) c -> b f h w c", clips, clips, h=shape[2], w=shape[3])


def _shares(shape: tuple[int, ...]) -> FrameShares:
    return frame_shares(*shape[:2]) if target_platform() == "tpu" else NO_SHARES


def _reshape(
    x: jax.Array, pattern: str, before: PartitionSpec | None, after: PartitionSpec | None, **sizes: int
) -> jax.Array:
    """Rearranges x; on a TPU, each device its share, with channels innermost on both sides."""
    if target_platform() != "tpu":
        return rearrange(x, pattern, **sizes)

    def of_share(x: jax.Array) -> jax.Array:
        return _channels_innermost(rearrange(_channels_innermost(x), pattern, **sizes))

    if before is not None and after is not None:
        return jax.shard_map(of_share, in_specs=before, out_specs=after, check_vma=False)(x)
    # The compiler cannot split a constraint on a layout.
    return rearrange(x, pattern, **sizes) if on_several_devices() else of_share(x)


def _channels_innermost(x: jax.Array) -> jax.Array:
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
