"""VideoControlNet: the UNet's encoder with the low-resolution latents as a hint."""

from typing import Any

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from star_jax.config import UNetConfig
from star_jax.models.i2vgenxl.unet import TextProjections, UNetEncoder, skip_widths
from star_jax.models.layers import Conv2d
from star_jax.models.whole_weights import gathered
from star_jax.ops.attention import AttentionKernels


class ControlNet(UNetEncoder):
    """Encoder that adds a convolved hint after the first convolution, with a zero-initialised output per skip."""

    def __init__(
        self,
        config: UNetConfig,
        *,
        kernels: AttentionKernels = AttentionKernels(),
        remat: str = "none",
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(config, kernels=kernels, remat=remat, **kwargs)
        widths = config.block_out_channels
        zeros = {"kernel_init": nnx.initializers.zeros, **kwargs}
        self.controlnet_cond_embedding = Conv2d(config.in_channels, widths[0], 3, **zeros)
        self.controlnet_down_blocks = nnx.List(
            [Conv2d(width, width, 1, **zeros) for width in skip_widths(widths, config.layers_per_block)]
        )
        self.controlnet_mid_block = Conv2d(widths[-1], widths[-1], 1, **zeros)

    def __call__(
        self,
        sample: Float[Array, "B F H W C"],
        timesteps: Int[Array, " B"],
        context: Float[Array, "N L E"] | TextProjections,
        hint: Float[Array, "B F H W C"],
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> list[Float[Array, "_ F _ _ _"]]:
        """Computes the terms that the base UNet adds to its skip connections and its middle block's output.

        Args:
          sample: noisy latents x_t [B, F, H, W, in_channels].
          timesteps: [B], 0..999.
          context: text embeddings [B, L, cross_attention_dim], or the result of `project_text`.
          hint: latents of the low-resolution video [B, F, H, W, in_channels].
          dropout_key: None for inference.

        Returns:
          One array per skip connection, finest first, then one for the middle block (13 in the original).
        """
        temb = gathered(self.time_embedding)(timesteps)
        hint = gathered(self.controlnet_cond_embedding)(hint.astype(self.dtype))
        x, skips = self.encode(
            sample.astype(self.dtype),
            temb,
            self.projected(context),
            hint=hint,
            dropout_key=dropout_key,
        )
        outputs = [
            gathered(conv)(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True)
        ]
        return [*outputs, gathered(self.controlnet_mid_block)(x)]
