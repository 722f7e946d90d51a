"""Linear layers with a low-rank update of their weight."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class LoraLinear(nnx.Linear):
    """y = x W + b + (x A) B / rank; with rank 0 only the linear layer.

    Hu et al., "LoRA", arXiv 2106.09685, with alpha = 1 as in STAR's checkpoints, so the scale is 1 / rank.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        super().__init__(in_features, out_features, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.rank = rank
        if rank:
            start = jax.nn.initializers.he_uniform()(rngs.params(), (in_features, rank), param_dtype)
            self.lora_a = nnx.Param(start)
            self.lora_b = nnx.Param(jnp.zeros((rank, out_features), param_dtype))

    def __call__(  # type: ignore[override]  # without out_sharding
        self, x: Float[Array, "*N C"]
    ) -> Float[Array, "*N D"]:  # [..., in_features] -> [..., out_features]
        out = super().__call__(x)
        if not self.rank:
            return out
        x = x.astype(self.dtype)
        down, up = (matrix[...].astype(self.dtype) for matrix in (self.lora_a, self.lora_b))
        return out + (x @ down) @ up * (1.0 / self.rank)
