"""Parsers of arguments that several commands share."""

import re

from star_jax.errors import InputError


def parse_size(text: str) -> tuple[int, int]:
    """Parses `720x1280` as (height, width).

    Raises:
      InputError: the text does not have this form.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise InputError(f"size is {text!r}; write HEIGHTxWIDTH, such as 720x1280")
    return int(match[1]), int(match[2])


def parse_share(text: str) -> tuple[int, int]:
    """Parses `0/4` as (index, count).

    Raises:
      InputError: the text does not have this form, or the index is not below the count.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise InputError(f"process is {text!r}; write INDEX/COUNT, such as 0/4 to 3/4")
    return int(match[1]), int(match[2])
