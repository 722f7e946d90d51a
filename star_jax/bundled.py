"""The small checkpoint that comes with the package, by name."""

import os
from pathlib import Path

BUNDLED = "tiny-star"


def find_checkpoint(name: str | os.PathLike) -> Path:
    """A checkpoint's directory: `tiny-star` is the bundled one, unless there is a directory of that name.

    Args:
      name: `tiny-star`, or a directory.
    """
    if str(name) == BUNDLED and not Path(name).exists():
        return Path(__file__).parent / "weights" / BUNDLED
    return Path(name)
