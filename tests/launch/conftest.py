"""`star-jax upscale` run in this process, with one pipeline's compiled programs."""

import copy
from pathlib import Path

import pytest
from sample_frames import moving_clip
from sample_videos import NTSC_FILM, write_video

from star_jax.inference.pipeline import StarPipeline
from star_jax.launch.cli import main

# The settings and the size of sample_frames.LONG, so that test_pipeline's compiled programs serve here too.
LONG = ["--steps", "1", "--guidance", "1", "--window", "4"]


@pytest.fixture
def shared_programs(monkeypatch, tiny_checkpoint, tiny_pipeline):
    """Checkpoints are loaded as ever, but all run in the compiled programs of one pipeline."""
    load = StarPipeline.from_pretrained

    def load_and_share(directory, **options) -> StarPipeline:
        if Path(directory) == tiny_checkpoint:
            return tiny_pipeline
        pipeline = copy.copy(tiny_pipeline)
        pipeline.params = load(directory, **options).params
        return pipeline

    monkeypatch.setattr(StarPipeline, "from_pretrained", staticmethod(load_and_share))


@pytest.fixture
def few_steps() -> list[str]:
    """Options with which sampling is short."""
    return LONG


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_video(tmp_path / "clip.mp4", moving_clip(6), rate=NTSC_FILM, audio="aac")


@pytest.fixture
def upscale(tiny_checkpoint):
    """Runs the command in this process."""

    def run(*arguments, checkpoint=tiny_checkpoint) -> int:
        common = ["--checkpoint", str(checkpoint), "--compile-cache", "", *LONG]
        return main(["upscale", *common, *map(str, arguments)])

    return run


@pytest.fixture
def refused(tmp_path, capfd, upscale):
    """Runs the command, which must fail in one line and leave everything as it was; returns the line."""

    def run(*arguments, code: int = 2, **options) -> str:
        before = contents(tmp_path)
        assert upscale("--quiet", *arguments, **options) == code
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("star-jax upscale: "), err
        assert contents(tmp_path) == before
        return err

    return run


def contents(folder: Path) -> dict[Path, int | None]:
    """Every path below, with the time of its last change."""
    return {path: path.stat().st_mtime_ns if path.is_file() else None for path in folder.rglob("*")}
