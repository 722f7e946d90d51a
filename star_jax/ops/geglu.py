"""The gate of GEGLU feed-forward layers, with the exact GELU."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from star_jax.ops.variants import variant_of


def geglu(x: Float[Array, "*N C2"]) -> Float[Array, "*N C"]:
    """hidden * GELU(gate) of x = [hidden, gate].

    In half precision on a GPU, the gate g (1 + erf(g / sqrt 2)) / 2 is evaluated in float32: that is more exact,
    and the compiler fuses it with the product (2.10 ms against 2.86 on an H200, docs/benchmarks.md).

    Args:
      x: [..., 2 dim].

    Returns:
      [..., dim] in x's dtype.
    """
    hidden, gate = jnp.split(x, 2, axis=-1)
    if variant_of("geglu") == "gelu" or x.dtype == jnp.float32:
        return hidden * jax.nn.gelu(gate, approximate=False)
    gate = gate.astype(jnp.float32)
    gelu = 0.5 * gate * (1 + jax.lax.erf(gate * math.sqrt(0.5)))
    return (hidden.astype(jnp.float32) * gelu).astype(x.dtype)
