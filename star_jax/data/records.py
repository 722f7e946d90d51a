"""Types: a source lists records, and a record gives an element."""

import dataclasses
from typing import Protocol

import numpy as np

from star_jax.data import storage
from star_jax.data.config import DataConfig
from star_jax.data.made_up.scenes import SceneVideo
from star_jax.data.made_up.synthetic import SyntheticVideo
from star_jax.data.stopwatch import Stopwatch

Element = dict[str, np.ndarray | str | int]


class BadClipError(Exception):
    """A record has no usable clip: it is unreadable, too short or too small; the message gives the reason."""


@dataclasses.dataclass(frozen=True)
class ClipRecord:
    """One video.

    Attributes:
      key: unique name within the source.
      video: path or URL of the ground truth, or a synthetic video.
      low_video: path or URL of the low-resolution video if the source has pairs.
      text: the caption.
      text_path: path or URL of a file with the caption, which is read instead of `text`.
    """

    key: str
    video: str | SyntheticVideo | SceneVideo
    low_video: str | None = None
    text: str = ""
    text_path: str | None = None

    def caption(self) -> str:
        """The caption; a file is read at each call."""
        return storage.read_text(self.text_path).strip() if self.text_path else self.text


class Loadable(Protocol):
    """A record with its own way of loading an element, such as an example of a prepared dataset."""

    def load(self, config: DataConfig, index: int, stopwatch: Stopwatch | None = None) -> Element:
        """See `star_jax.data.clips.load_element`."""
