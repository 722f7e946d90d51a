"""Random keys for initialisation, counted on the host."""

import jax
from flax import nnx


class InitRngs(nnx.Rngs):
    """`nnx.Rngs` for constructors under `jax.jit` and `jax.eval_shape`, without state in the trace.

    The counter of an `nnx.Rngs` is an array; while tracing, every draw from it costs time in proportion to the
    trace so far, which makes tracing a network of two thousand parameters take half a minute instead of two
    seconds.
    """

    def __init__(self, seed: int | jax.Array):
        super().__init__()
        self._key = jax.random.key(seed) if isinstance(seed, int) else seed
        self._drawn = 0

    def params(self) -> jax.Array:
        """The next key: fold_in(seed, number of keys drawn before)."""
        self._drawn += 1
        return jax.random.fold_in(self._key, self._drawn - 1)
