"""Photographs from Debian packages for `scenes`: a list in the repository, and a command that makes the pictures.

The list (photographs.csv) names each file's package, licence and hash, and the factor by which it is reduced: many
are softer than their size suggests, and a reduced picture has detail down to the pixel. No picture is part of this
repository.

    apt-get download $(python -m star_jax.data.made_up.photographs --packages)
    for package in *.deb; do dpkg-deb -x $package unpacked; done
    python -m star_jax.data.made_up.photographs unpacked photographs
"""

import argparse
import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from etils import epath

from star_jax.errors import InputError
from star_jax.files import write_png
from star_jax.progress import progress


@dataclass(frozen=True)
class Photograph:
    """A row of the list.

    Attributes:
      package: Debian package that contains the file.
      path: path of the file in the package.
      reduction: whole factor by which it is reduced along each axis.
      licence: SPDX-like name, as in the package's copyright file.
      sha256: SHA-256 of the file.
    """

    package: str
    path: str
    reduction: int
    licence: str
    sha256: str

    @property
    def name(self) -> str:
        """File name of the reduced picture."""
        parts = Path(self.path).with_suffix("").parts
        return "-".join(part for part in parts[2:] if part not in ("contents", "images")) + ".png"


def photographs() -> list[Photograph]:
    """All photographs of the list, in order."""
    text = (epath.resource_path("star_jax") / "data/made_up/photographs.csv").read_text()
    rows: Iterable[dict[str, Any]] = csv.DictReader(text.splitlines())
    return [Photograph(**row | {"reduction": int(row["reduction"])}) for row in rows]


def write_photographs(unpacked: Path, folder: Path) -> None:
    """Writes the reduced pictures that are missing in `folder`.

    Raises:
      InputError: a file is missing, or its hash is not the one in the list.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = photographs()
    with progress("Photographs", len(listed), "pictures") as bar:
        for photograph in listed:
            if not (folder / photograph.name).exists():
                write_png(folder / photograph.name, _reduced(unpacked / photograph.path, photograph))
            bar.advance()


def _reduced(path: Path, photograph: Photograph):
    if not path.exists():
        raise InputError(f"{path} is missing; unpack {photograph.package} there with dpkg-deb -x")
    if hashlib.sha256(path.read_bytes()).hexdigest() != photograph.sha256:
        raise InputError(
            f"the hash of {path} is not the one in the list; take {photograph.package} from Debian 12 (bookworm)"
        )
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert image is not None  # the hash matched
    height, width = (length // photograph.reduction for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def main() -> None:
    """Runs the commands in this module's docstring."""
    parser = argparse.ArgumentParser(description="Pictures for scenes:COUNT:FOLDER, from Debian packages.")
    parser.add_argument("--packages", action="store_true", help="print the packages' names and stop")
    parser.add_argument("unpacked", nargs="?", type=Path, help="folder that the packages were unpacked into")
    parser.add_argument("folder", nargs="?", type=Path, help="folder to write the pictures to")
    arguments = parser.parse_args()
    if arguments.packages:
        print(*dict.fromkeys(photograph.package for photograph in photographs()))
    elif arguments.folder is None:
        parser.error("give two folders: the one with the unpacked packages and the one to write to")
    else:
        write_photographs(arguments.unpacked, arguments.folder)


if __name__ == "__main__":
    main()
