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
    """A record that gives no clip: unreadable, too short, too small; the message says why."""


@dataclasses.dataclass(frozen=True)
class ClipRecord:
    """One video.

    Attributes:
      key: its name within the source; unique.
      video: path or URL of the ground truth; or a synthetic video itself.
      low_video: path or URL of the low-resolution video, where the source has pairs.
      text: the caption.
      text_path: file to read the caption from instead.
    """

    key: str
    video: str | SyntheticVideo | SceneVideo
    low_video: str | None = None
    text: str = ""
    text_path: str | None = None

    def caption(self) -> str:
        """The caption, read now if it is in a file."""
        return storage.read_text(self.text_path).strip() if self.text_path else self.text


class Loadable(Protocol):
    """A record that makes its own element, such as a prepared one."""

    def load(self, config: DataConfig, index: int, stopwatch: Stopwatch | None = None) -> Element:
        """See `star_jax.data.clips.load_element`."""
