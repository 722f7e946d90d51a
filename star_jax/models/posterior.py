"""The output of an autoencoder's encoder: a distribution of a clip's latents."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    Values = jax.Array
else:
    Values = jax.Array | jax.ShapeDtypeStruct  # shapes under `jax.eval_shape`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiagonalGaussian:
    """Posterior of the latents: independent normal distributions, in float32.

    Attributes:
      mean: [..., latent_channels], unscaled.
      logvar: logarithm of the variance, same shape, in [-30, 20].
    """

    mean: Values
    logvar: Values

    @classmethod
    def from_moments(cls, moments: jax.Array) -> "DiagonalGaussian":
        """Splits [..., 2 * latent_channels] into mean and log variance, which is clamped."""
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return cls(mean, jnp.clip(logvar, -30.0, 20.0))

    def sample(self, noise: jax.Array) -> jax.Array:
        """A sample of the latents, given standard normal `noise` of the mean's shape."""
        return self.mean + jnp.exp(0.5 * self.logvar) * noise

    def mode(self) -> jax.Array:
        """The most likely latents."""
        return self.mean
