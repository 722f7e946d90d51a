"""Random keys for initialisation, drawn from a counter on the host."""

import jax
from flax import nnx


class InitRngs(nnx.Rngs):
    """`nnx.Rngs` for constructors under `jax.jit` and `jax.eval_shape`, without state in the trace.

    The counter of an `nnx.Rngs` is an array. During tracing, the time for each draw from it grows with the trace,
    so that tracing a network of two thousand parameters takes half a minute instead of two seconds.
    """

    def __init__(self, seed: int | jax.Array):
        super().__init__()
        self._key = jax.random.key(seed) if isinstance(seed, int) else seed
        self._drawn = 0

    def params(self) -> jax.Array:
        """The next key: fold_in(seed, number of keys drawn before)."""
        self._drawn += 1
        return jax.random.fold_in(self._key, self._drawn - 1)
