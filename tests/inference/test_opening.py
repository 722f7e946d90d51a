"""What is said while a long video is looked through."""

import json
from fractions import Fraction

import pytest
from sample_videos import moving_frames, write_video

from star_jax.inference import opening
from star_jax.inference.opening import Opening
from star_jax.video.images import open_source


@pytest.fixture
def clock(monkeypatch):
    """A second passes between two looks at the clock."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(opening, "monotonic", lambda: float(next(ticks)))


@pytest.mark.parametrize("show", ["auto", "json", "none"])
def test_long_looks_through_a_file_are_told_of(tmp_path, clock, capsys, show):
    clip = write_video(tmp_path / "clip.mp4", moving_frames(40, 64, 48), rate=Fraction(25))
    told = Opening(show, 2)
    with told.of(clip):
        assert open_source(clip, on_scan=told.advance).info.num_frames == 40
    out, err = capsys.readouterr()
    if show == "auto":
        assert err.splitlines()[0] == f"file 1 of 2, {clip}: checking, 25%, 0:00:30 left"
        assert len(err.splitlines()) == 4 and not out
    elif show == "json":
        events = [json.loads(line) for line in out.splitlines()]
        assert events[0] == {
            "event": "opening",
            "file": 1,
            "files": 2,
            "input": str(clip),
            "stage_frames": 10,
            "num_frames": 40,
            "seconds_left": 30.0,
        }
    else:
        assert not out and not err
