"""The pipeline goes on from what it kept, at every moment, with the same numbers.

The toy's codec carries the last latent from one chunk to the next, so that chunks before the first wanted one are
decoded again.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import toy_architecture  # noqa: F401 (registers it)

from star_jax.diffusion.noise import noise_key
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.resume import Kept
from star_jax.inference.settings import UpscaleSettings
from star_jax.init.random_checkpoint import random_checkpoint

CLIP = np.random.default_rng(0).integers(0, 256, (6, 6, 5, 3), np.uint8)
SETTINGS = UpscaleSettings(num_inference_steps=3)


class Stopped(Exception):
    """Where the process would have been killed."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> StarPipeline:
    directory = tmp_path_factory.mktemp("toy") / "checkpoint"
    random_checkpoint(directory, "toy")
    return StarPipeline.from_pretrained(directory)


def run(
    pipeline: StarPipeline, folder: Path, *, stop_at: int | None = None, skip: int = 0
) -> tuple[list[np.ndarray], list[str]]:
    """Upscales; returns the pieces, and the stages that reported; stops before the report of that number."""
    reports: list[str] = []

    def on_progress(stage: str, done: int, total: int) -> None:
        if len(reports) == stop_at:
            raise Stopped
        reports.append(stage)

    def read(size: int) -> Iterator[np.ndarray]:
        return (CLIP[start : start + size] for start in range(0, len(CLIP), size))

    pieces = []
    stream = pipeline.stream(
        read, len(CLIP), CLIP.shape[1:3], SETTINGS, on_progress=on_progress, kept=Kept(folder), skip=skip
    )
    with contextlib.suppress(Stopped):
        for piece in stream:
            pieces.append(piece)
    return pieces, reports


def test_a_run_that_was_stopped_anywhere_goes_on_exactly(pipeline, tmp_path):
    (tmp_path / "whole").mkdir()
    pieces, reports = run(pipeline, tmp_path / "whole")
    assert reports == ["encode", *["sample"] * 3, *["decode"] * 3]
    for moment in range(len(reports)):
        folder = tmp_path / str(moment)
        folder.mkdir()
        done, _ = run(pipeline, folder, stop_at=moment)
        rest, again = run(pipeline, folder, skip=sum(len(piece) for piece in done))
        np.testing.assert_array_equal(np.concatenate([*done, *rest]), np.concatenate(pieces))
        assert again.count("decode") == len(rest)
        assert not list(folder.glob("state*")) and not list(folder.glob("hint*"))


def test_the_sampler_goes_on_from_its_last_row(pipeline, tmp_path):
    hint = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 6, 6, 3)), jnp.float32)
    contexts, key = pipeline.denoiser.encode_prompts(SETTINGS), noise_key(0)
    rows: list[int] = []

    def sample(kept: Kept, report: Callable[[int, int], None]) -> np.ndarray:
        return np.asarray(pipeline.denoiser.sample(hint, contexts, SETTINGS, key, report, kept))

    def stop(done: int, total: int) -> None:
        if done == total:
            raise Stopped

    whole = sample(Kept(), lambda done, total: None)
    with pytest.raises(Stopped):
        sample(Kept(tmp_path), stop)
    assert [path.name for path in tmp_path.iterdir()] == ["state.2.npz"]
    np.testing.assert_array_equal(sample(Kept(tmp_path), lambda done, total: rows.append(done)), whole)
    assert rows == [3] and not list(tmp_path.iterdir())
