"""STAR's network: the ControlNet's outputs steer the base UNet."""

import jax
import jax.numpy as jnp
from flax import nnx

from star_jax.config import UNetConfig
from star_jax.models.controlnet import ControlNet
from star_jax.models.layers import fold_key
from star_jax.models.unet import UNet
from star_jax.ops.attention import AttentionKernels


class Star(nnx.Module):
    """Velocity of noisy latents, given text and the low-resolution latents (original: `ControlledV2VUNet`)."""

    def __init__(
        self,
        config: UNetConfig,
        *,
        kernels: AttentionKernels = AttentionKernels(),  # noqa: B008 (frozen)
        dtype: jnp.dtype,
        param_dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        kwargs = {"kernels": kernels, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.unet = UNet(config, **kwargs)
        self.controlnet = ControlNet(config, **kwargs)

    def __call__(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        context: jax.Array,
        hint: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Predicts the velocity.

        Args:
          sample: noisy latents x_t [B, F, H, W, 4]; H 2 mod 8, W 0 mod 8 (for four levels).
          timesteps: [B], 0..999.
          context: text embeddings [B, L, cross_attention_dim].
          hint: latents of the low-resolution video [B, F, H, W, 4].
          dropout_key: None for inference.

        Returns:
          [B, F, H, W, 4] in the compute dtype.
        """
        control = self.controlnet(sample, timesteps, context, hint, dropout_key=fold_key(dropout_key, 0))
        return self.unet(sample, timesteps, context, control, dropout_key=fold_key(dropout_key, 1))
