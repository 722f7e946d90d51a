"""VMAF through FFmpeg: frames in order, equal frames best, failures named."""

import numpy as np
import pytest

from star_jax.data.made_up.synthetic import SyntheticVideo
from star_jax.errors import InputError, RunError
from star_jax.evaluation.metrics import vmaf
from star_jax.evaluation.metrics.vmaf import VmafScorer, ffmpeg_with_vmaf


@pytest.fixture(scope="module")
def frames():
    return SyntheticVideo(0, 64, 96, 11).read(0, 11, 1)


def test_scores_of_frames(frames):
    ffmpeg_with_vmaf()  # the tests' own: the extra `test` brings one
    worse = frames.copy()
    worse[6:] = np.clip(
        frames[6:].astype(int) + np.random.default_rng(0).normal(0, 40, frames[6:].shape), 0, 255
    )
    scorer = VmafScorer("vmaf_v0.6.1neg")
    for start in range(0, 11, 2):
        assert scorer.add(worse[start : start + 2], frames[start : start + 2]) == []
    values = scorer.finish()
    assert len(values) == 11
    assert min(values[:6]) > 80 > 60 > max(values[6:])


def test_no_ffmpeg(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda program: None)
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    ffmpeg_with_vmaf.cache_clear()
    with pytest.raises(InputError, match="found no FFmpeg with libvmaf; pip install imageio-ffmpeg"):
        ffmpeg_with_vmaf()
    ffmpeg_with_vmaf.cache_clear()


def test_a_failure_of_ffmpeg(frames, monkeypatch):
    monkeypatch.setattr(vmaf, "ffmpeg_with_vmaf", lambda: "false")
    scorer = VmafScorer("vmaf_v0.6.1")
    scorer.add(frames, frames)  # more than a pipe holds
    with pytest.raises(RunError, match="FFmpeg failed to compute VMAF"):
        scorer.finish()
