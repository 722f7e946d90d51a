"""Settings of an upscale, which are checked before it starts."""

import math
from dataclasses import dataclass

from star_jax.diffusion.schedule import FAST_STEPS
from star_jax.diffusion.solvers import SOLVERS
from star_jax.diffusion.tiles import Tiles, make_tiles
from star_jax.errors import InputError
from star_jax.inference.color_fix import COLOR_FIXES
from star_jax.models.size_rule import SizeRule
from star_jax.models.video_model import VideoModel
from star_jax.video.geometry import Padding, fit_padding, pad_to_fit_original

# The released script's prompts, to the letter (including the multiple spaces).
POSITIVE_PROMPT = (
    "Cinematic, High Contrast, highly detailed, taken using a Canon EOS R camera,   hyper detailed photo - "
    "realistic maximum detail, 32k, Color Grading, ultra HD, extreme meticulous detailing,  skin pore detailing, "
    "hyper sharpness, perfect without deformations."
)
NEGATIVE_PROMPT = (
    "painting, oil painting, illustration, drawing, art, sketch, oil painting, cartoon, CG Style, 3D render, "
    "unreal engine, blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, "
    "jpeg artifacts, deformed, lowres, over-smooth"
)
PADDINGS = ("fit", "original")
DECODERS = ("auto", "tiny", "full")
LIGHT_SCALE = 4  # the scale that light decoders are trained for
MAX_STEPS = 1000  # number of timesteps of the schedule
MAX_SEED = 2**32 - 1  # JAX's keys use 32 bits: a larger seed would repeat the noise of a smaller one


@dataclass(frozen=True)
class UpscaleSettings:
    """Settings of one upscale.

    Attributes:
      prompt: description of the clip; `positive_prompt` is appended to it.
      negative_prompt: text of the unconditional branch.
      positive_prompt: quality words that are appended to every prompt.
      num_inference_steps: number of denoising steps, 1 to 1000.
      spacing: `fast` (4 coarse and 11 fine steps, the released default), `normal` (any number of steps, evenly
        spaced), or `auto`: fast for 15 steps, normal for any other number.
      solver: `dpmpp_2m_sde` or `heun`.
      guidance_scale: weight of the prompt; 1 runs the conditional branch alone.
      seed: seed of all noise, 0 to 2^32 - 1.
      scale: output size over input size, at least 1.
      window: number of frames denoised together, with up to a quarter more in the last window; longer clips are cut
        into half-overlapping windows.
      color_fix: `adain`, `wavelet`, `flat-wavelet` or `none`.
      strength: share of the result in the output, 0 to 1; the rest is the enlarged input (against over-sharp
        pictures).
      tile: (height, width) in pixels of the parts of a frame that are denoised together, rounded up to sizes that
        the network takes; None denoises whole frames. Tiles overlap by a quarter and are blended at every step.
      vae_tile: (height, width) in pixels of the VAE's tiles; None takes whole frames.
      batch_guidance: evaluate both branches of guidance at once; one after the other needs half the memory.
      decode_overlap: number of frames that are decoded before and after each group of three and then dropped; 0
        decodes groups by themselves, as the released system does.
      padding: `fit` (repeats the border up to the next size that the network takes) or `original` (pads with white
        to at least 720x1280, as the released script does).
      decoder: `full` (the autoencoder's decoder), `tiny` (the checkpoint's light decoder) or `auto`: tiny if the
        checkpoint has a light decoder that sees the input and the scale is near the one it was trained for.
      fidelity: fidelity of the tiny decoder, from 0 (detail that looks right) to 1 (close to the original); None
        takes the checkpoint's. A tiny decoder that sees the input keeps its colours, and gets no colour fix.
      exact_size: allow odd sizes, as images have; otherwise sizes are rounded to even numbers.

    Raises:
      InputError: a value is out of range or not one of the choices.
    """

    prompt: str = ""
    negative_prompt: str = NEGATIVE_PROMPT
    positive_prompt: str = POSITIVE_PROMPT
    num_inference_steps: int = 15
    spacing: str = "auto"
    solver: str = "dpmpp_2m_sde"
    guidance_scale: float = 7.5
    seed: int = 0
    scale: float = 4.0
    window: int = 32
    color_fix: str = "adain"
    strength: float = 1.0
    padding: str = "fit"
    tile: tuple[int, int] | None = None
    vae_tile: tuple[int, int] | None = None
    batch_guidance: bool = True
    decode_overlap: int = 0
    decoder: str = "auto"
    fidelity: float | None = None
    exact_size: bool = False

    def __post_init__(self):
        _check_choice("color_fix", self.color_fix, COLOR_FIXES)
        _check_choice("decoder", self.decoder, DECODERS)
        _check_choice("solver", self.solver, SOLVERS)
        _check_choice("padding", self.padding, PADDINGS)
        _check_choice("spacing", self.spacing, ("auto", "fast", "normal"))
        _check_least("num_inference_steps", self.num_inference_steps, 1)
        if self.num_inference_steps > MAX_STEPS:
            raise InputError(f"num_inference_steps is {self.num_inference_steps}; choose at most {MAX_STEPS}")
        _check_least("guidance_scale", self.guidance_scale, 0)
        _check_least("scale", self.scale, 1)
        _check_least("window", self.window, 2)
        _check_least("seed", self.seed, 0)
        _check_least("decode_overlap", self.decode_overlap, 0)
        if not 0 <= self.strength <= 1:
            raise InputError(f"strength is {self.strength}; choose 0 (the enlarged input) to 1 (the result)")
        if self.fidelity is not None and not 0 <= self.fidelity <= 1:
            raise InputError(f"fidelity is {self.fidelity}; choose 0 (detail) to 1 (close to the original)")
        if self.seed > MAX_SEED:
            raise InputError(f"seed is {self.seed}; choose at most {MAX_SEED}")
        if self.spacing == "fast" and self.num_inference_steps != sum(FAST_STEPS):
            raise InputError(
                f"num_inference_steps is {self.num_inference_steps}, but spacing 'fast' always has "
                f"{sum(FAST_STEPS)} steps; choose spacing 'normal'"
            )

    @property
    def resolved_spacing(self) -> str:
        """`fast` or `normal`."""
        if self.spacing != "auto":
            return self.spacing
        return "fast" if self.num_inference_steps == sum(FAST_STEPS) else "normal"

    def light_fidelity(self, model: VideoModel) -> float | None:
        """The light decoder's fidelity; None if the autoencoder's own decoder is used.

        Raises:
          InputError: the settings need a light decoder, but the model has none, or none with a fidelity.
        """
        if self.decoder == "tiny" or (self.fidelity is not None and self.decoder == "auto"):
            default = model.default_fidelity  # raises if the model has no light decoder
            if self.fidelity is not None and not model.light_sees_frames:
                raise InputError("this checkpoint's tiny decoder has no fidelity to choose; leave it out")
            return default if self.fidelity is None else self.fidelity
        if self.fidelity is not None:
            raise InputError(
                "fidelity is a setting of the tiny decoder; choose decoder tiny, or leave it out"
            )
        is_made_for = model.light_sees_frames and abs(math.log2(self.scale / LIGHT_SCALE)) < 0.5
        is_light = self.decoder == "auto" and model.light_components and is_made_for
        return model.default_fidelity if is_light else None

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Output (height, width) for an input size; rounded to even numbers for H.264, unless `exact_size`."""
        if self.exact_size:
            return round(height * self.scale), round(width * self.scale)
        return 2 * round(height * self.scale / 2), 2 * round(width * self.scale / 2)

    def check_tiles(self, rule: SizeRule) -> None:
        """Checks that the network supports the tiles.

        Raises:
          InputError: a tile is too small, or not the only size that the network supports.
        """
        least, only = rule.least_tile, rule.only_tile
        if only is not None and self.tile not in (None, only):
            raise InputError(
                f"tile is {self.tile[0]}x{self.tile[1]}, but this checkpoint supports only {only[0]}x{only[1]} "
                "(transformer.other_grids in its config.json is exact); leave it out"
            )
        for name, tile in (("tile", self.tile), ("vae_tile", self.vae_tile)):
            if tile is not None and (tile[0] < least[0] or tile[1] < least[1]):
                raise InputError(f"{name} is {tile[0]}x{tile[1]}; choose at least {least[0]}x{least[1]}")

    def padding_of(self, rule: SizeRule, height: int, width: int) -> Padding:
        """Padding from an output size to a size that the network takes."""
        pad = fit_padding if self.padding == "fit" else pad_to_fit_original
        return pad(rule, height, width)

    @property
    def padding_value(self) -> float | None:
        """Constant that pads frames in [-1, 1]; None repeats the border."""
        return None if self.padding == "fit" else 1.0

    def tiles_of(self, rule: SizeRule, latent_size: tuple[int, int]) -> Tiles:
        """Tiles of latents of (height, width) for the network."""
        return _tiles(rule, latent_size, self.tile or rule.only_tile)

    def vae_tiles_of(self, rule: SizeRule, latent_size: tuple[int, int]) -> Tiles:
        """Tiles of latents of (height, width) for the autoencoder."""
        return _tiles(rule, latent_size, self.vae_tile)


def _tiles(rule: SizeRule, latent_size: tuple[int, int], tile: tuple[int, int] | None) -> Tiles:
    size = latent_size if tile is None else rule.latent_size(*rule.padded_size(*tile))
    return make_tiles(latent_size, size, rule.alignment)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}; choose one of {', '.join(choices)}")


def _check_least(name: str, value: float, least: float) -> None:
    if not (value >= least and math.isfinite(value)):
        raise InputError(f"{name} is {value}; choose a number of at least {least}")
