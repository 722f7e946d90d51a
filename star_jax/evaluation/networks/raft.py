"""RAFT, recurrent optical flow (Teed and Deng 2020), as in its authors' model raft-things.

A frame is encoded once. The flow between two encoded frames is refined in 20 updates, each of which looks up the
correlation of every pixel with a 9x9 window around its current target, at four resolutions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from star_jax.evaluation.networks.layers import Params, convolution, mean_pool

ITERATIONS = 20
_LEVELS = 4
_RADIUS = 4
_SIDE = 2 * _RADIUS + 1
_MARGIN = _SIDE + 1  # pixels that a bilinear window touches
_HIDDEN = 128
_EPSILON = 1e-5
# Up to this size, all correlations of a frame are kept; above it, each update computes them again, in blocks.
VOLUME_BYTES = 2**30
_BLOCK_BYTES = 2**27


class Encoded(NamedTuple):
    """A frame encoded for RAFT, at an eighth of its size.

    Attributes:
      features: [B, h, w, 256], which are correlated.
      hidden: [B, h, w, 128], initial state of the updates.
      context: [B, h, w, 128], input of every update.
    """

    features: jax.Array
    hidden: jax.Array
    context: jax.Array


def encode(params: Params, frames: jax.Array) -> Encoded:
    """Encodes frames [B, H, W, 3] between 0 and 255, H and W multiples of 8."""
    x = 2 * (frames / 255) - 1
    hidden, context = jnp.split(_encoder(params, "cnet", x), 2, axis=-1)
    return Encoded(_encoder(params, "fnet", x), jnp.tanh(hidden), jax.nn.relu(context))


def flow(
    params: Params,
    first: Encoded,
    second: Encoded,
    iterations: int = ITERATIONS,
    volume_bytes: int = VOLUME_BYTES,
) -> jax.Array:
    """Optical flow from the first frames to the second, [B, 8h, 8w, 2], x and y in pixels.

    Args:
      params: weights of network `raft`.
      first, second: frames encoded by `encode`.
      iterations: number of updates.
      volume_bytes: size up to which all correlations are kept.
    """
    batch, height, width, _ = first.features.shape
    grid = jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), axis=-1).astype(jnp.float32)
    start = jnp.broadcast_to(grid, (batch, height, width, 2))
    look_up = _correlation(first.features, second.features, volume_bytes)

    def update(state, _):
        hidden, coords = state
        hidden = _update_hidden(params, hidden, first.context, look_up(coords), coords - start)
        delta = convolution(params, "update_block/flow_head/conv1", hidden)
        delta = convolution(params, "update_block/flow_head/conv2", jax.nn.relu(delta))
        return (hidden, coords + delta), None

    (hidden, coords), _ = lax.scan(update, (first.hidden, start), length=iterations)
    return _upsample(params, hidden, coords - start)


def _encoder(params: Params, name: str, x: jax.Array) -> jax.Array:
    norm = _instance_norm if name == "fnet" else _batch_norm
    x = jax.nn.relu(norm(params, f"{name}/norm1", convolution(params, f"{name}/conv1", x, stride=2)))
    for level in (1, 2, 3):
        for block in (0, 1):
            stride = 2 if level > 1 and block == 0 else 1
            x = _residual(params, f"{name}/layer{level}/{block}", x, norm, stride)
    return convolution(params, f"{name}/conv2", x)


def _residual(params: Params, name: str, x: jax.Array, norm, stride: int) -> jax.Array:
    y = jax.nn.relu(norm(params, f"{name}/norm1", convolution(params, f"{name}/conv1", x, stride=stride)))
    y = jax.nn.relu(norm(params, f"{name}/norm2", convolution(params, f"{name}/conv2", y)))
    if stride > 1:
        x = norm(params, f"{name}/norm3", convolution(params, f"{name}/downsample/0", x, stride=stride))
    return jax.nn.relu(x + y)


def _instance_norm(_params: Params, _name: str, x: jax.Array) -> jax.Array:
    centred = x - jnp.mean(x, axis=(1, 2), keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=(1, 2), keepdims=True) + _EPSILON)


def _batch_norm(params: Params, name: str, x: jax.Array) -> jax.Array:
    scale = params[f"{name}/scale"] / jnp.sqrt(params[f"{name}/var"] + _EPSILON)
    return (x - params[f"{name}/mean"]) * scale + params[f"{name}/bias"]


def _correlation(first: jax.Array, second: jax.Array, volume_bytes: int):
    """Returns a function from coordinates [B, h, w, 2] (x, y) to the windows around them, [B, h, w, 4 * 81]."""
    _, height, width, channels = first.shape
    queries = rearrange(first, "b h w c -> b (h w) c") / channels**0.5
    pyramid = [second]
    for _ in range(_LEVELS - 1):
        pyramid.append(mean_pool(pyramid[-1]))
    # Each level is padded with zeros, so that every window lies within it.
    pyramid = [jnp.pad(level, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0))) for level in pyramid]
    bytes_per_query = 4 * sum(level.shape[1] * level.shape[2] for level in pyramid)

    def volumes(some: jax.Array) -> list[jax.Array]:
        return [
            jnp.einsum("bqc,bhwc->bqhw", some, level, precision=lax.Precision.HIGHEST) for level in pyramid
        ]

    total = first.shape[0] * height * width * bytes_per_query
    kept = volumes(queries) if total <= volume_bytes else None

    def look_up(coords: jax.Array) -> jax.Array:
        points = rearrange(coords, "b h w xy -> b (h w) xy")
        if kept is not None:
            windows = _windows(kept, points)
        else:
            size = max(1, _BLOCK_BYTES // (first.shape[0] * bytes_per_query))
            windows = _in_blocks(lambda some, at: _windows(volumes(some), at), queries, points, size)
        return rearrange(windows, "b (h w) c -> b h w c", h=height)

    return look_up


def _in_blocks(function, queries: jax.Array, points: jax.Array, size: int) -> jax.Array:
    count = queries.shape[1]
    blocks = -(-count // size)
    padding = ((0, 0), (0, blocks * size - count), (0, 0))
    split = [rearrange(jnp.pad(x, padding), "b (n q) c -> n b q c", n=blocks) for x in (queries, points)]
    windows = lax.map(lambda block: function(*block), tuple(split))
    return rearrange(windows, "n b q c -> b (n q) c")[:, :count]


def _windows(levels: list[jax.Array], points: jax.Array) -> jax.Array:
    """Bilinear 9x9 windows of correlations [b, q, h, w] around points [b, q, 2]: [b, q, 4 * 81].

    The channel is 81 * level + 9 * i + j, where i moves x and j moves y: the original adds a meshgrid of (dy, dx)
    to (x, y), and was trained with it.
    """
    windows = []
    for index, level in enumerate(levels):
        centre = points / 2**index
        corner = jnp.floor(centre)
        last = jnp.array([level.shape[3], level.shape[2]]) - _MARGIN
        begin = jnp.clip(corner.astype(jnp.int32) - _RADIUS + _MARGIN, 0, last)
        take = jax.vmap(jax.vmap(lambda image, at: lax.dynamic_slice(image, at[::-1], (_MARGIN, _MARGIN))))
        patch = take(level, begin)
        fraction = (centre - corner)[..., None, None, :]
        patch = patch[..., :-1] * (1 - fraction[..., 0]) + patch[..., 1:] * fraction[..., 0]
        patch = patch[..., :-1, :] * (1 - fraction[..., 1]) + patch[..., 1:, :] * fraction[..., 1]
        windows.append(rearrange(patch, "b q y x -> b q (x y)"))
    return jnp.concatenate(windows, axis=-1)


def _update_hidden(
    params: Params, hidden: jax.Array, context: jax.Array, correlation: jax.Array, motion: jax.Array
) -> jax.Array:
    name = "update_block/encoder"
    seen = jax.nn.relu(convolution(params, f"{name}/convc1", correlation))
    seen = jax.nn.relu(convolution(params, f"{name}/convc2", seen))
    moved = jax.nn.relu(convolution(params, f"{name}/convf1", motion))
    moved = jax.nn.relu(convolution(params, f"{name}/convf2", moved))
    both = jax.nn.relu(convolution(params, f"{name}/conv", jnp.concatenate([seen, moved], axis=-1)))
    inputs = jnp.concatenate([context, both, motion], axis=-1)
    for step in (1, 2):  # along rows, then along columns
        hidden = _gru(params, "update_block/gru/conv{}" + str(step), hidden, inputs)
    return hidden


def _gru(params: Params, name: str, hidden: jax.Array, inputs: jax.Array) -> jax.Array:
    joined = jnp.concatenate([hidden, inputs], axis=-1)
    update = jax.nn.sigmoid(convolution(params, name.format("z"), joined))
    reset = jax.nn.sigmoid(convolution(params, name.format("r"), joined))
    joined = jnp.concatenate([reset * hidden, inputs], axis=-1)
    return (1 - update) * hidden + update * jnp.tanh(convolution(params, name.format("q"), joined))


def _upsample(params: Params, hidden: jax.Array, motion: jax.Array) -> jax.Array:
    """Upsamples eightfold: each pixel is a convex combination of the 3x3 coarse pixels around it."""
    mask = jax.nn.relu(convolution(params, "update_block/mask/0", hidden))
    mask = convolution(params, "update_block/mask/2", mask) / 4
    mask = jax.nn.softmax(rearrange(mask, "b h w (k i j) -> b h w k i j", k=9, i=8), axis=3)
    height, width = motion.shape[1:3]
    padded = jnp.pad(8 * motion, ((0, 0), (1, 1), (1, 1), (0, 0)))
    around = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    fine = jnp.einsum("bhwkij,kbhwc->bhwijc", mask, jnp.stack(around), precision=lax.Precision.HIGHEST)
    return rearrange(fine, "b h w i j c -> b (h i) (w j) c")
