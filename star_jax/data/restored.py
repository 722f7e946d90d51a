"""Clips with the latents that a network restored from them: the training data of a light decoder.

Each clip is an .npz file: `gt` uint8 [F, H, W, 3], `lq` uint8 [F, h, w, 3] and `latents` float16 [F, h', w', C].
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from star_jax.data.config import DataConfig
from star_jax.data.records import BadClipError, Element
from star_jax.data.stopwatch import Stopwatch
from star_jax.errors import InputError
from star_jax.files import appearing

INDEX = "restored.json"  # at the folder's root once all clips are written


def clip_path(folder: Path, number: int) -> Path:
    """Path of one clip's file."""
    return folder / f"{number:06d}.npz"


def write_clip(path: Path, gt: np.ndarray, lq: np.ndarray, latents: np.ndarray) -> None:
    """Writes one clip; its file appears when it is complete."""
    with appearing(path) as partial, open(partial, "wb") as file:
        np.savez(file, gt=gt, lq=lq, latents=latents.astype(np.float16))


def finish(folder: Path, description: dict[str, Any]) -> None:
    """Marks a folder as complete; `description` has the clips' `count` and describes them."""
    with appearing(folder / INDEX) as partial:
        partial.write_text(json.dumps(description, indent=1))


class RestoredSource:
    """The clips of a finished folder, in order.

    Raises:
      InputError: the folder's index is damaged.
    """

    def __init__(self, location: str):
        self.folder = Path(location)
        try:
            self.description = json.loads((self.folder / INDEX).read_text())
            self._count = int(self.description["count"])
        except (ValueError, KeyError) as error:
            raise InputError(f"{self.folder / INDEX} is damaged: {error}; make the clips again") from error

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> "RestoredRecord":
        return RestoredRecord(clip_path(self.folder, int(index)))

    def digest(self) -> str:
        """Identifies the content by its description."""
        return hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class RestoredRecord:
    """One clip's file."""

    path: Path

    @property
    def key(self) -> str:
        return self.path.stem

    def load(self, config: DataConfig, index: int, stopwatch: Stopwatch | None = None) -> Element:
        """Loads the clip without mirroring it, because latents cannot be mirrored.

        Returns:
          the arrays of the file, `text` (empty), `key` and `index`.

        Raises:
          BadClipError: the file cannot be read.
          InputError: the size in the config is not the clip's.
        """
        try:
            with (stopwatch or Stopwatch())("decode"), np.load(self.path) as file:
                arrays = {name: file[name] for name in ("gt", "lq", "latents")}
        except (OSError, ValueError, KeyError) as error:
            raise BadClipError(str(error)) from error
        have, want = arrays["gt"].shape[:3], (config.num_frames, config.height, config.width)
        if have != want:
            raise InputError(
                f"the clips are {have} (frames, height, width), but the config has {want}; choose another work "
                "directory"
            )
        return {**arrays, "text": "", "key": self.key, "index": index}
