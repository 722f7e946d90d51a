"""Arguments that the data commands share."""

import re

from star_jax.errors import InputError


def parse_size(text: str) -> tuple[int, int]:
    """Reads `720x1280` as (height, width).

    Raises:
      InputError: not of that form.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise InputError(f"size {text!r} is not HEIGHTxWIDTH, such as 720x1280")
    return int(match[1]), int(match[2])


def parse_share(text: str) -> tuple[int, int]:
    """Reads `0/4` as (index, count).

    Raises:
      InputError: not of that form, or the index is not below the count.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise InputError(f"process {text!r} is not INDEX/COUNT, such as 0/4 to 3/4")
    return int(match[1]), int(match[2])
