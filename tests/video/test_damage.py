"""Damaged files: never a traceback, never something half-written, never a hang."""

from pathlib import Path

import numpy as np
from damage_drill import drill, limited

from star_jax.video.reader import VideoReader

GOLDEN = Path(__file__).parents[1] / "golden"


def test_damaged_files_are_done_refused_or_named():
    """A sample of what `python tests/video/damage_drill.py 500` does."""
    outcomes, faults, _ = drill(96, seed=1)
    assert not faults
    assert outcomes["done"] and outcomes["refused before any work"]
    assert outcomes["done, with a note of lost or damaged frames"]


def test_decoder_does_not_wait_for_a_picture_that_never_comes(tmp_path: Path):
    """FFmpeg's threads wait for ever on this file where each takes a picture of its own."""
    path = tmp_path / "damaged.mp4"
    path.write_bytes(np.load(GOLDEN / "damaged_hevc.npz")["data"].tobytes())
    with limited(60):
        reader = VideoReader(path, scan=True, strict=False)
        assert sum(len(frames) for frames, _ in reader.chunks(4)) == reader.info.num_frames
