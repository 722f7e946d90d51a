"""STAR's training losses: velocity prediction, and the dynamic frequency loss on decoded frames.

    L = mean (v_pred - v)^2 + b(t) L_DF,    L_DF = c(t) L_low + (1 - c(t)) L_high

Paper: "STAR", arXiv 2501.02976, sections 3.2 and 3.3 and appendix A; equation numbers below are its. Every function
takes one timestep per sample and returns one number per sample, so that a batch is the mean of its samples.
"""

from dataclasses import dataclass

from star_jax.errors import InputError

FREQUENCY_LOSSES = ("off", "not_separated", "inverse", "direct")
SCHEDULES = ("linear", "exponential")
LOW_PASSES = ("radius", "magnitude")
NORMALIZATIONS = ("ortho", "backward")


@dataclass(frozen=True)
class LossConfig:
    """The dynamic frequency (DF) loss and its variants; the defaults are the paper's best row.

    Attributes:
      frequency: `off` (velocity only), `not_separated` (L1 of the whole spectrum), `direct` (equation 8: low
        frequencies weigh more at noisy timesteps) or `inverse` (the two weights swapped). Table 4.
      alpha: exponent of c(t) = (t / t_max)^alpha. Table 5.
      schedule: form of b(t): `linear` (equation 10) or `exponential`. Table 5.
      beta: b(0), the weight of the DF loss. Table 7.
      low_pass: `radius` (a filter fixed in advance, equation 6) or `magnitude` (the released script's soft mask,
        which takes the smaller four fifths of the spectrum for low frequencies).
      cutoff: radius of the `radius` filter in cycles per pixel; 1/8 is the highest frequency that an input four
        times smaller can carry.
      normalization: of the Fourier transform: `ortho` keeps the loss at the size of a pixel error whatever the
        frame's size, `backward` is the released script's (unnormalised).
      factor: on L_DF; the released script has 0.01.
      stop_gradient: True reproduces the released script, whose DF loss reaches the metrics but no weight.
      frames: frames of each clip that are decoded for it, in random groups, a multiple of decode_group; None: all.
      decode_group: frames that the VAE decodes together.
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
                    f"loss.{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}"
                )
        for name in ("alpha", "beta", "factor"):
            if getattr(self, name) < 0:
                raise InputError(f"loss.{name} is {getattr(self, name)}; it must not be negative")
        if not 0 < self.cutoff < 1:
            raise InputError(f"loss.cutoff is {self.cutoff}; choose cycles per pixel between 0 and 1")
        if self.decode_group < 1:
            raise InputError(f"loss.decode_group is {self.decode_group}; at least 1 frame is needed")
        if self.frames is not None and (self.frames < 1 or self.frames % self.decode_group):
            raise InputError(
                f"loss.frames is {self.frames}; choose a multiple of loss.decode_group={self.decode_group}, or None"
            )


# What the released training script computes (its DF loss carries no gradient).
RELEASED_LOSS = LossConfig(low_pass="magnitude", normalization="backward", factor=0.01, stop_gradient=True)
