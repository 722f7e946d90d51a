"""Drawing a clip's parameters from a recipe: numbers only, no pixels.

A parameter that may walk is an array [F] of floats, one value per frame.
"""

from dataclasses import dataclass

import numpy as np

from star_jax.data.degradations.kernels import GAUSSIAN_FAMILIES, make_kernel, sinc_kernel
from star_jax.data.degradations.recipes import (
    BlurConfig,
    CodecConfig,
    FinalConfig,
    JpegConfig,
    NoiseConfig,
    Range,
    Recipe,
    ResizeConfig,
    RoundConfig,
    WalkConfig,
)

_STILL = WalkConfig(*[0.0] * 8)


@dataclass(frozen=True)
class BlurDraw:
    """A kernel per frame; `family` is one of GAUSSIAN_FAMILIES, or `sinc`, which takes `cutoff` alone."""

    family: str
    size: int
    sigma_x: np.ndarray
    sigma_y: np.ndarray
    rotation: np.ndarray
    beta: np.ndarray
    cutoff: np.ndarray

    def kernel(self, frame: int) -> np.ndarray:
        """The kernel of one frame, [size, size]."""
        if self.family == "sinc":
            return sinc_kernel(self.size, self.cutoff[frame])
        shape = (self.sigma_x[frame], self.sigma_y[frame], self.rotation[frame], self.beta[frame])
        return make_kernel(self.family, self.size, *shape)


@dataclass(frozen=True)
class ResizeDraw:
    """`direction` is up, down or keep; all frames of the clip have the same scale."""

    direction: str
    scale: float
    mode: str


@dataclass(frozen=True)
class NoiseDraw:
    """`strength` per frame: sigma in levels (kind `gaussian`) or the scale (kind `poisson`)."""

    kind: str
    grey: bool
    strength: np.ndarray


@dataclass(frozen=True)
class CodecDraw:
    name: str
    bits_per_frame: int
    preset: str


@dataclass(frozen=True)
class RoundDraw:
    """One round of operations; None leaves an operation out. `quality` is an integer array [F]."""

    blur: BlurDraw | None
    resize: ResizeDraw
    noise: NoiseDraw | None
    quality: np.ndarray | None
    codec: CodecDraw | None


@dataclass(frozen=True)
class ClipDraw:
    """All parameters of one clip's degradation, but not the noise itself."""

    first: RoundDraw | None
    second: RoundDraw | None
    final_mode: str
    final_sinc: BlurDraw | None
    jpeg_first: bool


def draw_clip(recipe: Recipe, num_frames: int, rng: np.random.Generator) -> ClipDraw:
    """Draws a clip's parameters.

    Args:
      recipe: the probabilities and ranges.
      num_frames: F; 1 if the recipe is drawn per frame.
      rng: the clip's generator.
    """
    walk = recipe.walk or _STILL
    first, second = (
        None if config is None else _draw_round(config, walk, num_frames, rng)
        for config in (recipe.first, recipe.second)
    )
    final = recipe.final
    return ClipDraw(
        first,
        second,
        final_mode=_choice(final.modes, rng),
        final_sinc=_draw_final_sinc(final, walk, num_frames, rng),
        jpeg_first=rng.random() < final.jpeg_first_probability,
    )


def _draw_round(
    config: RoundConfig, walk: WalkConfig, num_frames: int, rng: np.random.Generator
) -> RoundDraw:
    return RoundDraw(
        blur=_draw_blur(config.blur, walk, num_frames, rng),
        resize=_draw_resize(config.resize, rng),
        noise=_draw_noise(config.noise, walk, num_frames, rng),
        quality=_draw_quality(config.jpeg, walk, num_frames, rng),
        codec=_draw_codec(config.codec, rng),
    )


def _draw_blur(
    config: BlurConfig, walk: WalkConfig, num_frames: int, rng: np.random.Generator
) -> BlurDraw | None:
    if rng.random() >= config.probability:
        return None
    size = _choice(config.sizes, rng)
    if rng.random() < config.sinc_probability:
        cutoffs = config.small_sinc_cutoff if size < 13 else config.large_sinc_cutoff
        return _draw_sinc(size, cutoffs, walk, num_frames, rng)
    family = GAUSSIAN_FAMILIES[rng.choice(len(GAUSSIAN_FAMILIES), p=config.families)]
    betas, step = {
        "generalized": (config.beta_generalized, walk.beta_generalized),
        "plateau": (config.beta_plateau, walk.beta_plateau),
    }.get(family.split("_")[0], ((1.0, 1.0), 0.0))
    below = rng.random() < 0.5
    beta = rng.uniform(betas[0], 1) if below else rng.uniform(1, betas[1])
    first, second = (
        _walk(rng.uniform(*config.sigma), walk.sigma, config.sigma, num_frames, rng) for _ in range(2)
    )
    rotation = rng.uniform(-np.pi, np.pi)
    return BlurDraw(
        family,
        size,
        first,
        second,
        rotation=_walk(rotation, walk.rotation, (-np.inf, np.inf), num_frames, rng),
        beta=_walk(beta, step, betas, num_frames, rng),
        cutoff=np.zeros(num_frames),
    )


def _draw_sinc(
    size: int, cutoffs: Range, walk: WalkConfig, num_frames: int, rng: np.random.Generator
) -> BlurDraw:
    cutoff = _walk(rng.uniform(*cutoffs), walk.cutoff, cutoffs, num_frames, rng)
    unused = np.zeros(num_frames)
    return BlurDraw("sinc", size, unused, unused, unused, unused, cutoff)


def _draw_final_sinc(
    config: FinalConfig, walk: WalkConfig, num_frames: int, rng: np.random.Generator
) -> BlurDraw | None:
    if rng.random() >= config.sinc_probability:
        return None
    return _draw_sinc(_choice(config.sinc_sizes, rng), config.sinc_cutoff, walk, num_frames, rng)


def _draw_resize(config: ResizeConfig, rng: np.random.Generator) -> ResizeDraw:
    direction = ("up", "down", "keep")[rng.choice(3, p=(config.up, config.down, config.keep))]
    limits = {"up": (1.0, config.scale[1]), "down": (config.scale[0], 1.0), "keep": (1.0, 1.0)}
    return ResizeDraw(direction, rng.uniform(*limits[direction]), _choice(config.modes, rng))


def _draw_noise(
    config: NoiseConfig, walk: WalkConfig, num_frames: int, rng: np.random.Generator
) -> NoiseDraw | None:
    if rng.random() >= config.probability:
        return None
    if rng.random() < config.gaussian_probability:
        kind, limits, step = "gaussian", config.gaussian_sigma, walk.gaussian_sigma
    else:
        kind, limits, step = "poisson", config.poisson_scale, walk.poisson_scale
    grey = rng.random() < config.grey_probability
    return NoiseDraw(kind, bool(grey), _walk(rng.uniform(*limits), step, limits, num_frames, rng))


def _draw_quality(
    config: JpegConfig, walk: WalkConfig, num_frames: int, rng: np.random.Generator
) -> np.ndarray | None:
    if rng.random() >= config.probability:
        return None
    quality = _walk(rng.uniform(*config.quality), walk.quality, config.quality, num_frames, rng)
    return np.rint(quality).astype(int)


def _draw_codec(config: CodecConfig, rng: np.random.Generator) -> CodecDraw | None:
    if rng.random() >= config.probability:
        return None
    names, shares = zip(*config.codecs, strict=True)
    name = names[rng.choice(len(names), p=np.array(shares) / sum(shares))]
    return CodecDraw(name, int(rng.uniform(*config.bits_per_frame)), _choice(config.presets, rng))


def _choice(options: tuple, rng: np.random.Generator):
    """Draws one of the options, all equally likely, without converting it to a NumPy type."""
    return options[rng.integers(len(options))]


def _walk(start: float, step: float, limits: Range, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A random walk [F] from `start`: every step is uniform(-step, step), clipped to the limits."""
    values = np.empty(num_frames)
    value = start
    for index, move in enumerate(rng.uniform(-step, step, num_frames)):
        values[index] = value
        value = min(max(value + move, limits[0]), limits[1])
    return values
