"""Applies a recipe to a clip: ground-truth frames go in, low-resolution frames come out."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from star_jax.data.degradations.blur import blur
from star_jax.data.degradations.codec import compress
from star_jax.data.degradations.draws import BlurDraw, ClipDraw, RoundDraw, draw_clip
from star_jax.data.degradations.jpeg import jpeg
from star_jax.data.degradations.noise import gaussian_noise, poisson_noise
from star_jax.data.degradations.recipes import Recipe
from star_jax.data.degradations.resize import resize
from star_jax.data.degradations.sharpen import unsharp_mask
from star_jax.data.rng import generator
from star_jax.data.stopwatch import Stopwatch


def degrade(
    frames: np.ndarray, recipe: Recipe, seed: int, *position: int, stopwatch: Stopwatch | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Degrades a clip; the same (seed, position) gives the same result wherever it runs.

    Args:
      frames: ground truth, uint8 [F, H, W, 3]; H and W multiples of the recipe's scale.
      recipe: recipe of the degradation.
      seed: the run's seed.
      position: the element's index, and the degradation's number where an element has several.
      stopwatch: adds up the seconds of each stage.

    Returns:
      (ground truth uint8 [F, H, W, 3], sharpened if the recipe says so,
       low resolution uint8 [F, H/scale, W/scale, 3]).

    Raises:
      ValueError: H or W is not a multiple of the scale.
    """
    timed = stopwatch or _untimed
    height, width = frames.shape[1:3]
    if height % recipe.scale or width % recipe.scale:
        raise ValueError(f"the frames' size {height}x{width} is not a multiple of the scale {recipe.scale}")
    if recipe.sharpen:
        with timed("sharpen"):
            frames = np.stack([unsharp_mask(frame) for frame in frames])
    if recipe.per_frame:
        low = []
        for index, frame in enumerate(frames):
            rng = generator(seed, "degradation", *position, index)
            low += _Run(recipe, draw_clip(recipe, 1, rng), rng, timed).degrade([frame])
    else:
        rng = generator(seed, "degradation", *position)
        draw = draw_clip(recipe, len(frames), rng)
        low = _Run(recipe, draw, rng, timed).degrade(list(frames))
    return frames, np.stack(low)


def _untimed(stage: str) -> contextlib.nullcontext:
    return contextlib.nullcontext()


@dataclasses.dataclass(frozen=True)
class _Run:
    """One clip (or one frame) under one draw. Frames are processed one at a time and stay 8-bit in between."""

    recipe: Recipe
    draw: ClipDraw
    rng: np.random.Generator
    stopwatch: Callable[[str], contextlib.AbstractContextManager[Any]]

    def degrade(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        height, width = frames[0].shape[:2]
        low_size = (height // self.recipe.scale, width // self.recipe.scale)
        share = min(1.0, height * width / (self.recipe.rate_pixels or 1))
        first = self.draw.first
        if first is not None:
            size = _scaled((height, width), first.resize.scale)
            frames = [self._first(frame, index, size, first) for index, frame in enumerate(frames)]
            frames = self._compress(frames, first, share, "round 1: codec")
        second = self.draw.second
        if second is None:
            return [self._down(frame, index, low_size) for index, frame in enumerate(frames)]
        size = _scaled(low_size, second.resize.scale)
        if self.recipe.second_keeps_width:
            size = (size[0], width)
        frames = [self._second(frame, index, size, low_size, second) for index, frame in enumerate(frames)]
        return self._compress(frames, second, share, "round 2: codec")

    def _first(self, frame: np.ndarray, index: int, size: tuple[int, int], draw: RoundDraw) -> np.ndarray:
        frame = self._blur_resize_noise(frame, index, size, draw, "round 1")
        return self._jpeg(frame, index, draw, "round 1: jpeg")

    def _second(
        self,
        frame: np.ndarray,
        index: int,
        size: tuple[int, int],
        low_size: tuple[int, int],
        draw: RoundDraw,
    ) -> np.ndarray:
        frame = self._blur_resize_noise(frame, index, size, draw, "round 2")
        if self.draw.jpeg_first:
            frame = self._jpeg(frame, index, draw, "round 2: jpeg")
            return self._down(frame, index, low_size)
        frame = self._down(frame, index, low_size)
        return self._jpeg(frame, index, draw, "round 2: jpeg")

    def _blur_resize_noise(
        self, frame: np.ndarray, index: int, size: tuple[int, int], draw: RoundDraw, name: str
    ) -> np.ndarray:
        with self.stopwatch(f"{name}: blur"):
            frame = _blurred(frame, index, draw.blur)
        with self.stopwatch(f"{name}: resize"):
            frame = resize(frame, *size, draw.resize.mode)
        if draw.noise is None:
            return frame
        with self.stopwatch(f"{name}: noise"):
            add_noise = {"gaussian": gaussian_noise, "poisson": poisson_noise}[draw.noise.kind]
            return add_noise(frame, draw.noise.strength[index], draw.noise.grey, self.rng)

    def _down(self, frame: np.ndarray, index: int, low_size: tuple[int, int]) -> np.ndarray:
        with self.stopwatch("final resize and sinc"):
            frame = resize(frame, *low_size, self.draw.final_mode)
            return _blurred(frame, index, self.draw.final_sinc)

    def _jpeg(self, frame: np.ndarray, index: int, draw: RoundDraw, stage: str) -> np.ndarray:
        if draw.quality is None:
            return frame
        with self.stopwatch(stage):
            return jpeg(frame, draw.quality[index])

    def _compress(
        self, frames: list[np.ndarray], draw: RoundDraw, share: float, stage: str
    ) -> list[np.ndarray]:
        if draw.codec is None:
            return frames
        with self.stopwatch(stage):
            bits_per_frame = round(share * draw.codec.bits_per_frame)
            return compress(frames, draw.codec.name, bits_per_frame, draw.codec.preset)


def _blurred(frame: np.ndarray, index: int, draw: BlurDraw | None) -> np.ndarray:
    return frame if draw is None else blur(frame, draw.kernel(index))


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))
