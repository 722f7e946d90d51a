"""Plans the device memory of an upscale before it runs: how much it needs, and the largest tiles that fit.

The temporaries of the compiled programs grow in proportion to the pixels that they process at once, and to the
width of the finest level: `VideoModel.memory_use` has the factors (tests/inference/test_memory.py compares them
with the compiler).
"""

import dataclasses
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from star_jax.diffusion.windows import Windows, fresh_windows, make_windows
from star_jax.errors import InputError
from star_jax.files import bytes_text
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.size_rule import SizeRule
from star_jax.models.video_model import LIGHT_CHUNK, VideoModel
from star_jax.ops.platform import target_platform

_CHANNELS = 3
_LATENTS_HELD = 8  # copies of the clip's latents: solver, hint, noise, windows
_FRAMES_HELD = 6  # copies of a decoded piece: canvas, colour fix, result
_SHRINKS = (1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.4, 8, 12, 16)  # frame size over tile size
_LEAST_WINDOW = 8
_SHARE = 0.9  # share of the device's memory to plan with; the program and fragmentation take the rest


@dataclass(frozen=True)
class MemoryPlan:
    """Settings that fit, and the memory that they are expected to need.

    Attributes:
      settings: settings with tiles, window and guidance chosen.
      weights: bytes of the networks.
      sampling: bytes of latents and temporaries while sampling.
      vae: bytes of latents and temporaries while encoding or decoding, whichever is more.
      budget: bytes that may be used.
      frames: largest number of frames denoised together; the last window may be a quarter longer than the others.
    """

    settings: UpscaleSettings
    weights: int
    sampling: int
    vae: int
    budget: int
    frames: int

    @property
    def peak(self) -> int:
        """Peak memory in bytes."""
        return self.weights + max(self.sampling, self.vae)

    def describe(self) -> str:
        """The plan in one line."""
        chosen = self.settings
        tile, vae_tile = (
            "whole frames" if tile is None else f"tiles of {tile[0]}x{tile[1]}"
            for tile in (chosen.tile, chosen.vae_tile)
        )
        branches = "" if chosen.batch_guidance else ", the branches of guidance one after the other"
        return (
            f"memory: about {bytes_text(self.peak)} of {bytes_text(self.budget)} (weights "
            f"{bytes_text(self.weights)}, sampling {bytes_text(self.sampling)}, VAE {bytes_text(self.vae)}); "
            f"denoising up to {self.frames} frames at once, {tile}{branches}; VAE on {vae_tile}"
        )


def plan_memory(
    model: VideoModel,
    settings: UpscaleSettings,
    num_frames: int,
    size: tuple[int, int],
    *,
    budget: int | None = None,
) -> MemoryPlan:
    """Chooses how much to process at once: everything if it fits, else as much as fits.

    If memory is short, the branches of guidance run one after the other (with the same result). If that is not
    enough, frames are cut into tiles and windows are shortened, so that as many pixels as possible are processed at
    once. Given tiles are kept, and the window is an upper limit.

    Args:
      model: model with the dtype in which it runs.
      settings: settings that the user asked for.
      num_frames: number of the clip's frames.
      size: (height, width) of the input's frames.
      budget: largest number of bytes to use; by default all that the device has.

    Raises:
      InputError: nothing fits, in which case the message gives the least memory that would do, or a tile is too
        small.
    """
    rule = model.size_rule
    settings.check_tiles(rule)
    settings = dataclasses.replace(settings, tile=settings.tile or rule.only_tile)
    target = settings.target_size(*size)
    padded = settings.padding_of(rule, *target).padded_size(*target)
    given = budget is not None
    budget = device_memory() if budget is None else budget
    weights = weight_bytes(model)
    vae = [
        (vae_bytes(model, settings, candidate, num_frames, padded), candidate)
        for candidate in ([settings.vae_tile] if settings.vae_tile else _tiles(rule, padded))
    ]
    sampling = [
        (sampling_bytes(model, candidate, num_frames, padded), candidate)
        for candidate in _candidates(settings, model, num_frames, padded)
    ]
    left = budget - weights
    fitting_vae = next(((needed, tile) for needed, tile in vae if needed <= left), None)
    fitting = next(((needed, candidate) for needed, candidate in sampling if needed <= left), None)
    if fitting is None or fitting_vae is None:
        least = weights + max(min(needed for needed, _ in options) for options in (vae, sampling))
        limit = "--max-memory is" if given else "the device has"
        raise InputError(
            f"{limit} {bytes_text(budget)}, but {num_frames} frames of {padded[1]}x{padded[0]} need about "
            f"{bytes_text(least, up=True)}; give --max-memory {bytes_text(least, up=True).replace(' ', '')} or "
            "more, or a smaller output"
        )
    chosen = dataclasses.replace(fitting[1], vae_tile=fitting_vae[1])
    longest = _longest(latent_windows(rule, num_frames, chosen.window))
    return MemoryPlan(chosen, weights, fitting[0], fitting_vae[0], budget, rule.num_frames(longest))


def latent_windows(rule: SizeRule, num_frames: int, window: int) -> Windows:
    """The ranges of latents that are denoised together, in windows of `window` frames."""
    if rule.starts_anew:
        return fresh_windows(rule.num_latents(num_frames), rule.num_latents(window))
    return make_windows(rule.num_latents(num_frames), max(2, window))


def encoded_clips(rule: SizeRule, num_frames: int, window: int) -> Windows:
    """The ranges of frames that are encoded separately: the windows if the model starts anew in each, else all."""
    windows = latent_windows(rule, num_frames, window)
    if not rule.starts_anew or len(windows) == 1:
        return ((0, num_frames),)
    return tuple(
        (rule.frames_per_latent * start, rule.frames_per_latent * (stop - 1) + 1) for start, stop in windows
    )


def weight_bytes(model: VideoModel) -> int:
    """Bytes of all networks."""
    leaves = jax.tree.leaves(model.abstract_params())
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def sampling_bytes(
    model: VideoModel, settings: UpscaleSettings, num_frames: int, padded: tuple[int, int]
) -> int:
    """Bytes of latents and temporaries while a clip of `padded` = (height, width) pixels is denoised."""
    rule = model.size_rule
    branches = 2 if settings.batch_guidance and model.is_guided(settings.guidance_scale) else 1
    longest = _longest(latent_windows(rule, num_frames, settings.window))
    seen = branches * longest * math.prod(rule.latent_size(*_cut(rule, settings.tile, padded)))
    platform = target_platform()
    # A CPU computes in float32, whatever the dtype is.
    itemsize = 4 if platform == "cpu" else model.dtype.itemsize
    temporaries = model.memory_use(platform).network * itemsize * seen
    return int(temporaries + _LATENTS_HELD * 4 * _latent_values(model, num_frames, padded))


def vae_bytes(
    model: VideoModel,
    settings: UpscaleSettings,
    tile: tuple[int, int] | None,
    num_frames: int,
    padded: tuple[int, int],
) -> int:
    """Bytes of latents, pieces and temporaries while a clip is encoded or decoded, whichever is more."""
    clips = encoded_clips(model.size_rule, num_frames, settings.window)
    encoded = max(model.encode_chunks(clips[0][1]))
    chunks = model.decode_chunks(model.size_rule.padded_frames(num_frames), settings.decode_overlap)
    use = model.memory_use(target_platform())
    decoded, per_pixel = max(chunk.decoded for chunk in chunks), use.decoder
    if settings.light_fidelity(model) is not None:
        decoded, per_pixel = LIGHT_CHUNK, use.light_decoder
    pixels = math.prod(_cut(model.size_rule, tile, padded))
    temporaries = max(use.encoder * encoded, per_pixel * decoded) * pixels
    pieces = _FRAMES_HELD * decoded * math.prod(padded) * _CHANNELS
    return int(4 * (temporaries + pieces + 2 * _latent_values(model, num_frames, padded)))


def _longest(windows: Windows) -> int:
    return max(stop - start for start, stop in windows)


def _latent_values(model: VideoModel, num_frames: int, padded: tuple[int, int]) -> int:
    rule = model.size_rule
    return rule.num_latents(num_frames) * math.prod(rule.latent_size(*padded)) * model.latent_channels


def device_memory() -> int:
    """Bytes that one device has for an upscale, as its allocator reports; on a CPU, the machine's memory."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(_SHARE * stats["bytes_limit"])
    return int(_SHARE * host_memory())


def host_memory() -> int:
    """Physical memory of this machine, or of the container if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return total


def _candidates(
    settings: UpscaleSettings, model: VideoModel, num_frames: int, padded: tuple[int, int]
) -> Iterator[UpscaleSettings]:
    """Settings in the order of decreasing memory."""
    rule = model.size_rule
    if settings.batch_guidance and model.is_guided(settings.guidance_scale):
        yield settings
        settings = dataclasses.replace(settings, batch_guidance=False)
    windows = [settings.window]
    while windows[-1] // 2 >= _LEAST_WINDOW and min(windows[-1], num_frames) > _LEAST_WINDOW:
        windows.append(windows[-1] // 2)
    options = [
        dataclasses.replace(settings, tile=tile, window=window)
        for tile in ([settings.tile] if settings.tile else _tiles(rule, padded))
        for window in windows
    ]

    def seen_at_once(option: UpscaleSettings) -> tuple[int, int]:
        return math.prod(_cut(rule, option.tile, padded)) * min(option.window, num_frames), option.window

    yield from sorted(options, key=seen_at_once, reverse=True)


def _tiles(rule: SizeRule, padded: tuple[int, int]) -> list[tuple[int, int] | None]:
    """None (whole frames), then smaller and smaller tiles of about the frame's shape, which the network takes."""
    tiles: list[tuple[int, int] | None] = [None]
    for shrink in _SHRINKS:
        height, width = (
            max(least, math.ceil(side / shrink)) for least, side in zip(rule.least_tile, padded, strict=True)
        )
        tile = _cut(rule, (height, width), padded)
        if tile not in (*tiles, padded):
            tiles.append(tile)
    return tiles


def _cut(rule: SizeRule, tile: tuple[int, int] | None, padded: tuple[int, int]) -> tuple[int, int]:
    if tile is None:
        return padded
    height, width = rule.padded_size(*tile)
    return min(height, padded[0]), min(width, padded[1])
