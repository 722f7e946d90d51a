"""The pipeline goes on from what it kept, at every moment, with the same numbers."""

import numpy as np
import pytest
from sample_frames import SHORT, moving_clip

from star_jax.diffusion.noise import noise_key
from star_jax.inference.resume import Kept
from star_jax.inference.settings import UpscaleSettings

CLIP = moving_clip(4)


class Stopped(Exception):
    """Where the process would have been killed."""


def run(pipeline, folder, *, stop_at=None, skip=0) -> tuple[list[np.ndarray], list[tuple[str, int]]]:
    """Upscales; returns pieces and moments, and stops before the moment of that number."""
    moments: list[tuple[str, int]] = []

    def on_progress(stage: str, done: int, total: int) -> None:
        if stop_at is not None and len(moments) == stop_at:
            raise Stopped
        moments.append((stage, done))

    pieces = []
    settings = UpscaleSettings(**SHORT)
    read = lambda size: (CLIP[start : start + size] for start in range(0, len(CLIP), size))  # noqa: E731
    try:
        for piece in pipeline.stream(
            read, len(CLIP), CLIP.shape[1:3], settings, on_progress=on_progress, kept=Kept(folder), skip=skip
        ):
            pieces.append(piece)
    except Stopped:
        pass
    return pieces, moments


@pytest.fixture(scope="module")
def whole(tiny_pipeline, tmp_path_factory):
    return run(tiny_pipeline, tmp_path_factory.mktemp("whole"))


def test_a_run_that_was_stopped_anywhere_goes_on_exactly(tiny_pipeline, whole, tmp_path):
    pieces, moments = whole
    assert [stage for stage, _ in moments] == ["encode", "encode", "sample", "decode", "decode"]
    for moment in range(len(moments)):
        folder = tmp_path / str(moment)
        folder.mkdir()
        done, _ = run(tiny_pipeline, folder, stop_at=moment)
        skip = sum(len(piece) for piece in done)
        rest, again = run(tiny_pipeline, folder, skip=skip)
        np.testing.assert_array_equal(np.concatenate([*done, *rest]), np.concatenate(pieces))
        if moment >= 2:  # what was encoded is not encoded again
            assert [stage for stage, _ in again].count("encode") == 1
        assert not list(folder.glob("state*")) and not list(folder.glob("hint*"))


def test_the_sampler_goes_on_from_its_last_row(tiny_pipeline, tmp_path):
    settings = UpscaleSettings(num_inference_steps=3)
    hint = np.random.default_rng(0).normal(size=(1, 4, 10, 8, 4)).astype(np.float32)
    contexts, key = tiny_pipeline.encode_prompts(settings), noise_key(0)
    rows: list[int] = []
    whole = tiny_pipeline.sample(hint, contexts, settings, key, lambda done, total: rows.append(done))
    assert rows == [1, 2, 3]

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        tiny_pipeline.sample(hint, contexts, settings, key, stop, Kept(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["state.2.npz"]
    rows.clear()
    rest = tiny_pipeline.sample(
        hint, contexts, settings, key, lambda done, _: rows.append(done), Kept(tmp_path)
    )
    assert rows == [3] and not list(tmp_path.iterdir())
    np.testing.assert_array_equal(np.asarray(rest), np.asarray(whole))
