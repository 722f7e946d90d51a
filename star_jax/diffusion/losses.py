"""STAR's training losses: velocity prediction, and the dynamic frequency loss on decoded frames.

    L = mean (v_pred - v)^2 + b(t) L_DF,    L_DF = c(t) L_low + (1 - c(t)) L_high

Paper: "STAR", arXiv 2501.02976, sections 3.2 and 3.3 and appendix A; equation and table numbers below refer to it.
Losses are computed per sample, with one timestep each, so that the loss of a batch is the mean over its samples.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int, Key

from star_jax.errors import InputError
from star_jax.ops.platform import target_platform
from star_jax.parallel.activations import on_several_devices, transform_locally

FREQUENCY_LOSSES = ("off", "not_separated", "inverse", "direct")
SCHEDULES = ("linear", "exponential")
LOW_PASSES = ("radius", "magnitude")
NORMALIZATIONS = ("ortho", "backward")

# The released script's soft mask: sigmoid(sharpness (q - |F|)), where q is the quantile of |F|.
_MAGNITUDE_QUANTILE = 0.8
_MAGNITUDE_SHARPNESS = 10.0


@dataclass(frozen=True)
class LossConfig:
    """The dynamic frequency (DF) loss and its variants; the defaults are the paper's best row.

    Attributes:
      frequency: `off` (velocity only), `not_separated` (L1 of the whole spectrum), `direct` (equation 8: low
        frequencies have more weight at noisy timesteps) or `inverse` (the two weights swapped). Table 4.
      alpha: exponent of c(t) = (t / t_max)^alpha. Table 5.
      schedule: form of b(t): `linear` (equation 10) or `exponential`. Table 5.
      beta: b(0), the weight of the DF loss. Table 7.
      low_pass: `radius` (a fixed filter, equation 6) or `magnitude` (the released script's soft mask, which counts
        the weakest four fifths of the spectrum as low frequencies).
      cutoff: radius of the `radius` filter in cycles per pixel; 1/8 is the highest frequency that an input four
        times smaller can carry.
      normalization: normalisation of the Fourier transform: `ortho` keeps the loss on the scale of a pixel error
        for every frame size; `backward` (unnormalised) is the released script's.
      factor: factor of L_DF; 0.01 in the released script.
      stop_gradient: True reproduces the released script, whose DF loss appears in the metrics but trains no weight.
      frames: number of frames per clip that are decoded for this loss, in random groups; a multiple of
        decode_group, or None for all frames.
      decode_group: frames that the VAE decodes together.
      first_timestep, last_timestep: range from which training draws timesteps uniformly; the released script draws
        from all 1000. (Sampling starts at 899.)
    """

    frequency: str = "direct"
    alpha: float = 2.0
    schedule: str = "linear"
    beta: float = 1.0
    low_pass: str = "radius"
    cutoff: float = 0.125
    normalization: str = "ortho"
    factor: float = 1.0
    stop_gradient: bool = False
    frames: int | None = None
    decode_group: int = 3
    first_timestep: int = 0
    last_timestep: int = 999

    def __post_init__(self):
        choices = {
            "frequency": FREQUENCY_LOSSES,
            "schedule": SCHEDULES,
            "low_pass": LOW_PASSES,
            "normalization": NORMALIZATIONS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"diffusion.{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}"
                )
        for name in ("alpha", "beta", "factor"):
            if getattr(self, name) < 0:
                raise InputError(f"diffusion.{name} is {getattr(self, name)}; it must not be negative")
        if not 0 < self.cutoff < 1:
            raise InputError(
                f"diffusion.cutoff is {self.cutoff}; choose a value between 0 and 1 cycles per pixel"
            )
        if self.decode_group < 1:
            raise InputError(f"diffusion.decode_group is {self.decode_group}; at least 1 frame is needed")
        if not 0 <= self.first_timestep <= self.last_timestep <= 999:
            raise InputError(
                f"diffusion.first_timestep..last_timestep is {self.first_timestep}..{self.last_timestep}; choose "
                "a range within 0..999"
            )
        if self.frames is not None and (self.frames < 1 or self.frames % self.decode_group):
            raise InputError(
                f"diffusion.frames is {self.frames}; choose a multiple of "
                f"diffusion.decode_group={self.decode_group}, or None for all frames"
            )


# The released training script's settings (its DF loss carries no gradient). The script takes the mask's quantile
# over a whole clip; here it is taken over each decoded group.
RELEASED_LOSS = LossConfig(low_pass="magnitude", normalization="backward", factor=0.01, stop_gradient=True)


def velocity_loss(
    prediction: Float[Array, "B F H W C"], target: Float[Array, "B F H W C"]
) -> Float[Array, " B"]:
    """Mean squared error of the velocity, per sample (equation 2).

    Args:
      prediction, target: [B, F, h, w, C].

    Returns:
      [B] float32.
    """
    error = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.square(error).mean(range(1, error.ndim))


def frequency_balance(
    config: LossConfig, timesteps: Int[Array, " B"], max_timestep: int
) -> Float[Array, " B"]:
    """c(t) = (t / t_max)^alpha, float32 [B]: the weight of low frequencies in equation 8.

    t_max is the last timestep (999), so that c is 1 there.
    """
    return (timesteps.astype(jnp.float32) / max_timestep) ** config.alpha


def frequency_weight(
    config: LossConfig, timesteps: Int[Array, " B"], max_timestep: int
) -> Float[Array, " B"]:
    """b(t), float32 [B]: the weight of the DF loss, which is beta at t = 0 and 0 at t_max.

    `linear` is equation 10, beta (1 - s) with s = t / t_max. The paper gives no formula for its `exponential` row;
    here it is beta (e^(1 - s) - 1) / (e - 1), which has the same end values.
    """
    remaining = 1.0 - timesteps.astype(jnp.float32) / max_timestep
    if config.schedule == "exponential":
        remaining = jnp.expm1(remaining) / math.expm1(1.0)
    return config.beta * remaining


def frequency_loss(
    config: LossConfig,
    prediction: Float[Array, "B F H W C"],
    target: Float[Array, "B F H W C"],
    timesteps: Int[Array, " B"],
    max_timestep: int,
) -> Float[Array, "B F"]:
    """L_DF of equation 8 times `factor`, per frame, without b(t).

    Distances are mean absolute differences of real and imaginary parts over a frame's half spectrum (rFFT). As in
    the released script, the mean of each band is taken over the whole half spectrum.

    Args:
      config: any variant but `off`.
      prediction, target: decoded and ground-truth frames [B, F, H, W, 3] in [-1, 1].
      timesteps: [B].
      max_timestep: t_max.

    Returns:
      [B, F] float32.
    """
    spectra = [_spectrum(config, frames) for frames in (prediction, target)]
    if config.frequency == "not_separated":
        return config.factor * _distance(*spectra)
    height, width = prediction.shape[2:4]
    masks = [_low_pass(config, spectrum, (height, width)) for spectrum in spectra]
    low = _distance(*(s * m for s, m in zip(spectra, masks, strict=True)))
    high = _distance(*(s * (1.0 - m) for s, m in zip(spectra, masks, strict=True)))
    balance = frequency_balance(config, timesteps, max_timestep)[:, None]
    if config.frequency == "inverse":
        low, high = high, low
    return config.factor * (balance * low + (1.0 - balance) * high)


def _spectrum(config: LossConfig, frames: jax.Array) -> jax.Array:
    """[B, F, H, W, 3] -> complex64 [B, F, 3, H, W // 2 + 1], with the transformed axes last."""
    planes = rearrange(frames.astype(jnp.float32), "b f h w c -> b (f c) h w")
    spectra = transform_locally(partial(_transform, config.normalization), planes)
    return rearrange(spectra, "b (f c) h w -> b f c h w", f=frames.shape[1])


def _transform(normalization: str, planes: jax.Array) -> jax.Array:
    """Fourier transform of planes [b, n, H, W] -> [b, n, H, W // 2 + 1]."""
    if target_platform() != "cpu" or not on_several_devices():
        return jnp.fft.rfft2(planes, norm=normalization)
    # Split over CPU devices, XLA passes its transform planes in another memory layout, which then fails at run
    # time; on a TPU, complex numbers accept no layout.
    order = Layout(major_to_minor=(0, 1, 2, 3))
    spectra = jnp.fft.rfft2(with_layout_constraint(planes, order), norm=normalization)
    return with_layout_constraint(spectra, order)


def _low_pass(config: LossConfig, spectrum: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Fraction of each coefficient that counts as low frequency, in [0, 1], broadcastable to the spectrum."""
    if config.low_pass == "radius":
        rows, columns = np.fft.fftfreq(size[0]), np.fft.rfftfreq(size[1])
        return jnp.asarray(np.hypot(rows[:, None], columns) <= config.cutoff, jnp.float32)
    # The cut depends on the sample, but its gradient, through a sort, is meaningless.
    magnitude = jnp.abs(spectrum)
    cut = jnp.quantile(
        jax.lax.stop_gradient(magnitude), _MAGNITUDE_QUANTILE, axis=(1, 2, 3, 4), keepdims=True
    )
    return jax.nn.sigmoid(_MAGNITUDE_SHARPNESS * (cut - magnitude))


def _distance(first: jax.Array, second: jax.Array) -> jax.Array:
    """Mean absolute difference over real and imaginary parts, [B, F, ...] -> [B, F]."""
    difference = first - second
    return 0.5 * (jnp.abs(difference.real) + jnp.abs(difference.imag)).mean((2, 3, 4))


def decode_groups(num_frames: int, group: int) -> tuple[Int[np.ndarray, " G"], Float[np.ndarray, "G f"]]:
    """The groups of frames in which a clip is decoded, all of one length, so that one program decodes them.

    If `group` does not divide the clip, the last group begins earlier and shares frames with the previous one; a
    shared frame has half the weight in each.

    Returns:
      First frame of each group, int32 [G], and weight of each frame, float32 [G, group]; the weights sum to 1.
    """
    group = min(group, num_frames)
    starts = np.minimum(np.arange(0, num_frames, group), num_frames - group)
    frames = starts[:, None] + np.arange(group)
    times_decoded = np.bincount(frames.ravel(), minlength=num_frames)
    return starts.astype(np.int32), (1.0 / (num_frames * times_decoded[frames])).astype(np.float32)


def draw_groups(
    config: LossConfig, num_frames: int, key: Key[Array, ""]
) -> tuple[Int[Array, " G"], Float[Array, "G f"]]:
    """The groups that one step decodes: all of them, or random groups with `config.frames` frames in all.

    Every group is equally likely, and the weights are divided by the fraction drawn, so that the weighted loss is
    an unbiased estimate of the loss over all frames.

    Returns:
      First frame of each group, int32 [G], and weights, float32 [G, group].

    Raises:
      InputError: `config.frames` is more than the clip has.
    """
    starts, weights = decode_groups(num_frames, config.decode_group)
    if config.frames is None:
        return jnp.asarray(starts), jnp.asarray(weights)
    count = config.frames // config.decode_group
    if count > len(starts):
        raise InputError(
            f"diffusion.frames is {config.frames}, but clips have {num_frames} frames; choose fewer, or None for "
            "all frames"
        )
    chosen = jax.random.permutation(key, len(starts))[:count]
    return jnp.asarray(starts)[chosen], jnp.asarray(weights)[chosen] * (len(starts) / count)
