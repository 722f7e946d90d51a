"""A tiny model with random weights, made and loaded once for all tests that upscale."""

from pathlib import Path

import pytest

from star_jax.convert.fresh import random_checkpoint
from star_jax.pipeline import StarPipeline


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint directory of preset `tiny`; tests that change one copy it first."""
    directory = tmp_path_factory.mktemp("checkpoints") / "tiny"
    random_checkpoint(directory, "tiny")
    return directory


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_checkpoint) -> StarPipeline:
    """One pipeline for all tests: programs that one test compiled, the next one finds."""
    return StarPipeline.from_pretrained(tiny_checkpoint, dtype="float32")
