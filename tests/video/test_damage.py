"""Damaged files: never a traceback, never something half-written, never a hang."""

from damage_drill import drill


def test_damaged_files_are_done_refused_or_named():
    """A sample of what `python tests/video/damage_drill.py 500` does."""
    outcomes, faults, _ = drill(96, seed=1)
    assert not faults
    assert outcomes["done"] and outcomes["refused before any work"]
    assert outcomes["done, with a note of lost or damaged frames"]
