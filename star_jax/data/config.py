"""Settings of the training data."""

import dataclasses
from dataclasses import dataclass

from star_jax.data.degradations import get_recipe
from star_jax.errors import InputError


@dataclass(frozen=True)
class DataConfig:
    """The contents of a training element, and how elements are loaded.

    Attributes:
      source: location of the clips (see `sources.open_source`).
      recipe: degradation recipe; paired and prepared sources have low-resolution clips already.
      sharpen: USM-sharpen the ground truth; None leaves it to the recipe.
      num_frames: number of frames in an element.
      frame_interval: source frames from one frame of the element to the next. A video that is too short for it
        is read at the largest interval that fits.
      height, width: the bucket, to which every clip is resized and cropped.
      max_upscale: a video that is smaller than the bucket by more than this factor is skipped, because it has no
        detail to learn.
      flip_probability: probability that a clip is mirrored.
      caption_dropout: probability of an empty caption.
      seed: seed of every draw.
      shuffle: whether each epoch has a new order.
      num_epochs: number of epochs; None repeats for ever.
      num_workers: worker processes; 0 loads in threads of this process.
      read_threads: threads per worker (or of this process).
      worker_buffer: finished elements that a worker holds; memory is bounded by
        workers x (threads + 2 buffers) elements.
      max_bad_share: largest share of unusable files; loading stops if there are more.
    """

    source: str
    recipe: str = "realbasicvsr"
    sharpen: bool | None = None
    num_frames: int = 32
    frame_interval: int = 2
    height: int = 720
    width: int = 1280
    max_upscale: float = 1.25
    flip_probability: float = 0.5
    caption_dropout: float = 0.5
    seed: int = 0
    shuffle: bool = True
    num_epochs: int | None = None
    num_workers: int = 0
    read_threads: int = 1
    worker_buffer: int = 1
    max_bad_share: float = 0.1

    def __post_init__(self):
        for name in ("num_frames", "frame_interval", "height", "width", "read_threads", "worker_buffer"):
            if getattr(self, name) < 1:
                raise InputError(f"data.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("num_workers", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"data.{name} is {getattr(self, name)}; it must not be negative")
        for name in ("flip_probability", "caption_dropout", "max_bad_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"data.{name} is {getattr(self, name)}; choose 0 to 1")
        if not self.max_upscale > 0:
            raise InputError(f"data.max_upscale is {self.max_upscale}; it must be positive")
        if self.num_epochs is not None and self.num_epochs < 1:
            raise InputError(
                f"data.num_epochs is {self.num_epochs}; choose 1 or more, or None to repeat for ever"
            )
        scale = self.make_recipe().scale
        if self.height % scale or self.width % scale:
            raise InputError(
                f"data.height x data.width is {self.height}x{self.width}; both must be multiples of {scale}"
            )

    def make_recipe(self):
        """The recipe, with `sharpen` applied.

        Raises:
          InputError: no recipe has that name.
        """
        recipe = get_recipe(self.recipe)
        return recipe if self.sharpen is None else dataclasses.replace(recipe, sharpen=self.sharpen)

    @property
    def element_bytes(self) -> int:
        """Bytes of one element: both clips, uint8."""
        truth = self.num_frames * self.height * self.width * 3
        return truth + truth // self.make_recipe().scale ** 2

    @property
    def buffered_bytes(self) -> int:
        """Upper bound of the bytes of all elements that wait in this host's loader."""
        per_worker = self.read_threads + 2 * self.worker_buffer
        return max(1, self.num_workers) * per_worker * self.element_bytes
