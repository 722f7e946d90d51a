"""Degradation recipes: every probability and range of a recipe as frozen dataclasses.

Ranges are (low, high), and values are drawn uniformly. Sources: Real-ESRGAN (arXiv 2107.10833), RealBasicVSR
(arXiv 2111.12704), the released STAR scripts.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from star_jax.data.degradations.codec import CODECS
from star_jax.data.degradations.kernels import GAUSSIAN_FAMILIES
from star_jax.data.degradations.resize import MODES
from star_jax.errors import InputError

Range = tuple[float, float]

_KERNEL_SIZES = (7, 9, 11, 13, 15, 17, 19, 21)


@dataclass(frozen=True)
class BlurConfig:
    """Blur by one kernel.

    Attributes:
      probability: probability of blurring at all.
      sizes: kernel sizes, equally likely.
      families: probability of each of GAUSSIAN_FAMILIES if no sinc is drawn.
      sigma: standard deviation in pixels, drawn for each axis.
      beta_generalized, beta_plateau: exponents; values below and above 1 are equally likely.
      sinc_probability: probability of a sinc kernel instead.
      small_sinc_cutoff, large_sinc_cutoff: radians per pixel, for sizes below 13 and from 13 on.
    """

    probability: float = 1.0
    sizes: tuple[int, ...] = _KERNEL_SIZES
    families: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sigma: Range = (0.2, 3.0)
    beta_generalized: Range = (0.5, 4.0)
    beta_plateau: Range = (1.0, 2.0)
    sinc_probability: float = 0.1
    small_sinc_cutoff: Range = (np.pi / 3, np.pi)
    large_sinc_cutoff: Range = (np.pi / 5, np.pi)


@dataclass(frozen=True)
class ResizeConfig:
    """Resize by a random factor.

    Attributes:
      up, down, keep: probabilities; up draws a factor from (1, scale[1]), down from (scale[0], 1).
      scale: smallest and largest factor.
      modes: resize filters, equally likely.
    """

    up: float = 0.2
    down: float = 0.7
    keep: float = 0.1
    scale: Range = (0.15, 1.5)
    modes: tuple[str, ...] = ("area", "bilinear", "bicubic")


@dataclass(frozen=True)
class NoiseConfig:
    """Gaussian or Poisson noise.

    Attributes:
      probability: probability of noise at all.
      gaussian_probability: probability that the noise is Gaussian.
      gaussian_sigma: standard deviation in levels (0..255).
      poisson_scale: factor of a Poisson process's deviation.
      grey_probability: probability of the same noise in all channels.
    """

    probability: float = 1.0
    gaussian_probability: float = 0.5
    gaussian_sigma: Range = (1.0, 30.0)
    poisson_scale: Range = (0.05, 3.0)
    grey_probability: float = 0.4


@dataclass(frozen=True)
class JpegConfig:
    """JPEG at a random quality (1..100)."""

    probability: float = 1.0
    quality: Range = (30.0, 95.0)


@dataclass(frozen=True)
class CodecConfig:
    """Video compression of the clip.

    Attributes:
      probability: probability of compressing at all.
      codecs: (name, probability) pairs.
      bits_per_frame: bit rate divided by frame rate.
      presets: presets of x264, equally likely.
    """

    probability: float = 1.0
    codecs: tuple[tuple[str, float], ...] = (("libx264", 2 / 3), ("mpeg4", 1 / 3))
    bits_per_frame: Range = (1e4, 1e5)
    presets: tuple[str, ...] = ("ultrafast", "superfast", "veryfast")


@dataclass(frozen=True)
class RoundConfig:
    """One round: blur, resize, noise, JPEG, codec; a recipe may leave out any of them."""

    blur: BlurConfig = BlurConfig()
    resize: ResizeConfig = ResizeConfig()
    noise: NoiseConfig = NoiseConfig()
    jpeg: JpegConfig = JpegConfig()
    codec: CodecConfig = CodecConfig()


@dataclass(frozen=True)
class FinalConfig:
    """The last step to the low resolution: resize and sinc filter, before or after the second round's JPEG.

    Attributes:
      modes: resize filters, equally likely.
      sinc_probability, sinc_sizes, sinc_cutoff: probability, kernel sizes and cutoff of the final sinc filter.
      jpeg_first_probability: probability of JPEG before the resize rather than after the sinc filter.
    """

    modes: tuple[str, ...] = ("area", "bilinear", "bicubic")
    sinc_probability: float = 0.8
    sinc_sizes: tuple[int, ...] = _KERNEL_SIZES
    sinc_cutoff: Range = (np.pi / 3, np.pi)
    jpeg_first_probability: float = 0.5


@dataclass(frozen=True)
class WalkConfig:
    """Random walk within a clip: from frame to frame, a parameter moves by uniform(-step, step) within its range.

    Frame sizes do not walk, because a codec needs one size. The steps are RealBasicVSR's.
    """

    sigma: float = 0.02
    rotation: float = 0.1 * np.pi
    beta_generalized: float = 0.05
    beta_plateau: float = 0.1
    cutoff: float = 0.02 * np.pi
    gaussian_sigma: float = 0.1
    poisson_scale: float = 0.005
    quality: float = 3.0


@dataclass(frozen=True)
class Recipe:
    """A degradation from ground truth to low resolution.

    Attributes:
      name: name of the recipe.
      scale: ground truth pixels per low-resolution pixel, along each axis.
      first, second: the rounds; None leaves a round out.
      final: the resize to the low resolution.
      walk: steps within a clip; None keeps the parameters constant over the clip.
      per_frame: whether everything is drawn anew for every frame, and each frame is compressed by itself.
      second_keeps_width: whether the second round's resize changes the height only (see RECIPES).
      sharpen: whether the ground truth is sharpened first (USM) and serves as the target in that form.
      rate_pixels: pixels of a ground-truth frame that the codecs' bit rates are meant for; smaller frames get a
        proportional share. None takes the rates as they are, whatever the size.
    """

    name: str
    scale: int = 4
    first: RoundConfig | None = None
    second: RoundConfig | None = None
    final: FinalConfig = FinalConfig()
    walk: WalkConfig | None = WalkConfig()
    per_frame: bool = False
    second_keeps_width: bool = False
    sharpen: bool = False
    rate_pixels: int | None = None

    def __post_init__(self):
        for part in (self.first, self.second):
            if part is not None:
                _check_round(self.name, part)


def _check_round(name: str, config: RoundConfig) -> None:
    unknown = {codec for codec, _ in config.codec.codecs} - set(CODECS)
    unknown |= set(config.resize.modes) - set(MODES)
    if unknown:
        raise InputError(
            f"recipe {name!r} names {sorted(unknown)}; codecs: {', '.join(CODECS)}; modes: {MODES}"
        )
    if len(config.blur.families) != len(GAUSSIAN_FAMILIES):
        raise InputError(f"recipe {name!r}: blur.families needs {len(GAUSSIAN_FAMILIES)} probabilities")
    resize = config.resize
    groups = {
        "blur.families": sum(config.blur.families),
        "resize.up + down + keep": resize.up + resize.down + resize.keep,
        "codec.codecs": sum(share for _, share in config.codec.codecs),
    }
    for group, total in groups.items():
        if abs(total - 1) > 1e-6:
            raise InputError(f"recipe {name!r}: the probabilities of {group} add up to {total:g}, not 1")


_SECOND = RoundConfig(
    blur=BlurConfig(probability=0.8, sigma=(0.2, 1.5)),
    resize=ResizeConfig(up=0.3, down=0.4, keep=0.3, scale=(0.3, 1.2)),
    noise=NoiseConfig(gaussian_sigma=(1.0, 25.0), poisson_scale=(0.05, 2.5)),
)

_LIGHT = RoundConfig(
    blur=BlurConfig(probability=0.7, sigma=(0.2, 1.2), sinc_probability=0.05),
    resize=ResizeConfig(up=0.1, down=0.5, keep=0.4, scale=(0.5, 1.2)),
    noise=NoiseConfig(probability=0.7, gaussian_sigma=(1.0, 8.0), poisson_scale=(0.05, 0.5)),
    jpeg=JpegConfig(probability=0.5, quality=(70.0, 95.0)),
    codec=CodecConfig(probability=0.7, bits_per_frame=(6e4, 3e5)),
)

_HEAVY_FIRST = RoundConfig(
    blur=BlurConfig(sigma=(1.0, 4.0)),
    resize=ResizeConfig(up=0.1, down=0.9, keep=0.0, scale=(0.1, 1.2)),
    noise=NoiseConfig(gaussian_sigma=(8.0, 40.0), poisson_scale=(0.5, 4.0)),
    jpeg=JpegConfig(quality=(15.0, 70.0)),
    codec=CodecConfig(bits_per_frame=(5e3, 4e4)),
)

_HEAVY_SECOND = RoundConfig(
    blur=BlurConfig(sigma=(0.5, 2.0)),
    resize=ResizeConfig(up=0.2, down=0.6, keep=0.2, scale=(0.25, 1.2)),
    noise=NoiseConfig(gaussian_sigma=(5.0, 30.0), poisson_scale=(0.3, 3.0)),
    jpeg=JpegConfig(quality=(15.0, 70.0)),
    codec=CodecConfig(bits_per_frame=(5e3, 4e4)),
)

RECIPES: dict[str, Recipe] = {
    # Two rounds; each clip has one draw with a small walk, and the codecs compress whole clips.
    "realbasicvsr": Recipe("realbasicvsr", first=RoundConfig(), second=_SECOND),
    # The same for small crops, which would hardly be compressed at the full rates. The rates are for somewhat less
    # than a whole frame, because the first frame of a clip takes most of its bits, and training clips are short.
    "realbasicvsr-crops": Recipe(
        "realbasicvsr-crops", first=RoundConfig(), second=_SECOND, rate_pixels=100_000
    ),
    # The released STAR scripts draw everything per frame and encode one-frame videos. In their second round the
    # drawn factor cancels out of the width (it divides and multiplies): frames stay as wide as the ground truth.
    "star": Recipe(
        "star",
        first=RoundConfig(),
        second=_SECOND,
        walk=None,
        per_frame=True,
        second_keeps_width=True,
        sharpen=True,
    ),
    # Recent phones and web video: one mild round.
    "light": Recipe("light", second=_LIGHT, final=FinalConfig(sinc_probability=0.3)),
    # Old, small and often recompressed video.
    "heavy": Recipe("heavy", first=_HEAVY_FIRST, second=_HEAVY_SECOND),
    # Only the resize.
    "none": Recipe("none", final=FinalConfig(modes=("area",), sinc_probability=0.0), walk=None),
}


def get_recipe(name: str, **changes) -> Recipe:
    """Returns a named recipe, with fields replaced (`sharpen=True`, `scale=2`).

    Raises:
      InputError: no recipe has that name.
    """
    if name not in RECIPES:
        raise InputError(f"no degradation recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return dataclasses.replace(RECIPES[name], **changes)
