"""Notes for the user about a file that are not errors; each is one line, and appears once."""

import sys

_said: set[str] = set()


def note(text: str) -> None:
    """Writes a line to stderr, unless it was written before in this process."""
    if text not in _said:
        _said.add(text)
        print(f"note: {text}", file=sys.stderr)
