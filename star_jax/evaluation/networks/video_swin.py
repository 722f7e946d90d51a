"""Video Swin Transformer with gated position biases (Liu et al. 2022; Wu et al. 2022, FAST-VQA), tiny.

It sees a mosaic of 7x7 fragments that were cut out of a video at different positions. A window of attention may
cover several fragments, and the positions of two tokens in the mosaic then do not show their distance in the video.
So two position biases are mixed: one for tokens of the same fragment, and one for tokens of different fragments.
"""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax

from star_jax.evaluation.networks.layers import Params, layer_norm, linear, patches

DEPTHS = (2, 2, 6, 2)
HEADS = (3, 6, 12, 24)
WINDOW = (8, 7, 7)
FRAGMENTS = 7
_PATCH = (2, 4, 4)
_EPSILON = 1e-5
_MASKED = -100.0

Size = tuple[int, int, int]


def swin_features(params: Params, name: str, x: jax.Array) -> jax.Array:
    """Features of a mosaic of fragments.

    Args:
      params: weights of the network, of which `NAME/...` are used.
      name: path of the backbone.
      x: [B, T, 224, 224, 3], normalised; T is a multiple of 16, or 2, 4 or 8.

    Returns:
      [B, T / 2, 7, 7, C].
    """
    x = patches(params, f"{name}/patch_embed", x, _PATCH)
    x = layer_norm(params, f"{name}/patch_norm", x, _EPSILON)
    for level, depth in enumerate(DEPTHS):
        for index in range(depth):
            block = f"{name}/layers/{level}/blocks/{index}"
            normed = layer_norm(params, f"{block}/norm1", x, _EPSILON)
            x = x + _window_attention(params, f"{block}/attn", normed, HEADS[level], shifted=index % 2 == 1)
            normed = layer_norm(params, f"{block}/norm2", x, _EPSILON)
            hidden = jax.nn.gelu(linear(params, f"{block}/fc1", normed), approximate=False)
            x = x + linear(params, f"{block}/fc2", hidden)
        if level < len(DEPTHS) - 1:
            x = _merge(params, f"{name}/layers/{level}/downsample", x)
    return layer_norm(params, f"{name}/norm", x, _EPSILON)


def _merge(params: Params, name: str, x: jax.Array) -> jax.Array:
    """Halves height and width and doubles the channels."""
    x = rearrange(x, "b t (h q) (w r) c -> b t h w (r q c)", q=2, r=2)
    return linear(params, f"{name}/reduction", layer_norm(params, f"{name}/norm", x, _EPSILON))


def _window_attention(params: Params, name: str, x: jax.Array, heads: int, *, shifted: bool) -> jax.Array:
    size = cast(Size, x.shape[1:4])
    window = cast(Size, tuple(map(min, size, WINDOW)))
    # A window that spans an axis is not shifted along it.
    halves = (side // 2 if shifted and side < whole else 0 for side, whole in zip(window, size, strict=True))
    shift = cast(Size, tuple(halves))
    t, h, w = (whole // side for whole, side in zip(size, window, strict=True))
    split = "b (t p) (h q) (w r) c -> b (t h w) (p q r) c"
    tokens = rearrange(jnp.roll(x, [-s for s in shift], (1, 2, 3)), split, t=t, h=h, w=w)
    fused = rearrange(linear(params, f"{name}/qkv", tokens), "b n l (k a d) -> k b n a l d", k=3, a=heads)
    queries, keys, values = fused
    scores = _multiply("bnald,bnamd->bnalm", queries * queries.shape[-1] ** -0.5, keys)
    weights = jax.nn.softmax(scores + _bias(params, name, size, window, shift), axis=-1)
    attended = rearrange(_multiply("bnalm,bnamd->bnald", weights, values), "b n a l d -> b n l (a d)")
    back = rearrange(
        linear(params, f"{name}/proj", attended),
        "b (t h w) (p q r) c -> b (t p) (h q) (w r) c",
        **dict(zip("thwpqr", (t, h, w, *window), strict=True)),
    )
    return jnp.roll(back, shift, (1, 2, 3))


def _multiply(axes: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(axes, a, b, precision=lax.Precision.HIGHEST)


def _bias(params: Params, name: str, size: Size, window: Size, shift: Size) -> jax.Array:
    """Bias of the attention scores in each window: [windows, heads, tokens, tokens]."""
    index = _relative_places(window)
    bias = rearrange(params[f"{name}/position_bias"][index], "l m a -> 1 a l m")
    # Without the barrier, the compiler would precompute and store hundreds of MiB for all pairs of tokens.
    fragments, moved = lax.optimization_barrier(
        (_fragments(size, window, shift), _moved(size, window, shift))
    )
    if f"{name}/fragment_bias" in params:
        other = rearrange(params[f"{name}/fragment_bias"][index], "l m a -> 1 a l m")
        # Not clipped to 0..1: the original weights by the number of fragments between two tokens, and was trained
        # with that.
        apart = jnp.sum(jnp.abs(fragments[:, :, None] - fragments[:, None]), axis=-1)[:, None]
        bias = bias * apart + other * (1 - apart)
    together = jnp.all(moved[:, :, None] == moved[:, None], axis=-1)
    return jnp.where(together[:, None], bias, bias + _MASKED)


def _relative_places(window: Size) -> np.ndarray:
    """The row in the table of biases for each pair of tokens in a window, [tokens, tokens]."""
    places = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), axis=-1).reshape(-1, 3)
    offsets = places[:, None] - places[None] + np.array(WINDOW) - 1
    strides = np.array([(2 * WINDOW[1] - 1) * (2 * WINDOW[2] - 1), 2 * WINDOW[2] - 1, 1])
    return offsets @ strides


def _fragments(size: Size, window: Size, shift: Size) -> np.ndarray:
    """Row and column of the fragment of each token in each window: [windows, tokens, 2]."""
    rows, columns = (np.arange(side) * FRAGMENTS // side for side in size[1:])
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    return _in_windows(np.broadcast_to(grid, (*size, 2)), window, shift)


def _moved(size: Size, window: Size, shift: Size) -> np.ndarray:
    """Whether the shift wraps a token around, by axis: [windows, tokens, 3].

    Tokens that share a window only because of the shift do not attend to each other.
    """
    axes = [np.arange(whole) < offset for whole, offset in zip(size, shift, strict=True)]
    return _in_windows(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1), window, shift)


def _in_windows(x: np.ndarray, window: Size, shift: Size) -> np.ndarray:
    shifted = np.roll(x, [-s for s in shift], (0, 1, 2))
    split = "(t p) (h q) (w r) c -> (t h w) (p q r) c"
    return rearrange(shifted, split, **dict(zip("pqr", window, strict=True)))
