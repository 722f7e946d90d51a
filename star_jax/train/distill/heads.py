"""Discriminator heads: they tell the student's clips from real ones by the features of frozen networks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from star_jax.models.layers import Conv2d
from star_jax.models.rngs import InitRngs

Tree = dict[str, Any]


class Head(nnx.Module):
    """Convolutions that turn each frame's features into a logit at every place."""

    def __init__(self, channels: int, width: int, *, rngs: nnx.Rngs):
        kwargs: dict[str, Any] = {"dtype": jnp.float32, "param_dtype": jnp.float32, "rngs": rngs}
        self.conv_in = Conv2d(channels, width, 1, **kwargs)
        self.conv = Conv2d(width, width, 3, **kwargs)
        self.conv_out = Conv2d(width, 1, 1, **kwargs)

    def __call__(self, features: jax.Array) -> jax.Array:  # [B, F, h, w, C] -> [B, F, h, w, 1]
        x = jax.nn.silu(self.conv_in(features))
        return self.conv_out(jax.nn.silu(self.conv(x)))


class Heads(nnx.Module):
    """One head for each feature map."""

    def __init__(self, channels: Sequence[int], width: int, *, rngs: nnx.Rngs):
        self.heads = nnx.List([Head(count, width, rngs=rngs) for count in channels])

    def __call__(self, features: Sequence[jax.Array]) -> list[jax.Array]:
        return [head(feature) for head, feature in zip(self.heads, features, strict=True)]


class HeadsOf:
    """Heads as functions of their weights.

    Args:
      channels: number of channels of each feature map.
      width: number of channels within each head.
    """

    def __init__(self, channels: Sequence[int], width: int):
        self._build = lambda seed: Heads(channels, width, rngs=InitRngs(seed))
        self._graphdef, state = nnx.split(nnx.eval_shape(lambda: self._build(0)))
        self.shapes: Tree = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), nnx.to_pure_dict(state)
        )

    def fresh(self, seed: int) -> Tree:
        """Fresh weights from a seed."""
        return nnx.to_pure_dict(nnx.state(self._build(seed)))

    def __call__(self, params: Tree, features: Sequence[jax.Array]) -> list[jax.Array]:
        """Logits [B, F, h, w, 1] for each feature map."""
        return nnx.merge(self._graphdef, params)(features)


def normalised(features: Sequence[jax.Array]) -> list[jax.Array]:
    """Features in float32 with a root mean square of 1 at every place, because the levels of a network differ."""
    wide = [feature.astype(jnp.float32) for feature in features]
    return [x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) for x in wide]
