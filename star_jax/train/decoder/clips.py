"""The clips of a light decoder's training: truth, degraded frames, and a network's latents of these."""

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from star_jax.data.clips import load_element
from star_jax.data.config import DataConfig
from star_jax.data.restored import INDEX, clip_path, finish, write_clip
from star_jax.data.rng import generator
from star_jax.data.sources import open_source
from star_jax.errors import InputError
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.progress import progress
from star_jax.train.decoder.config import ClipsConfig, DecoderExperimentConfig

logger = logging.getLogger(__name__)

TRAIN, VALIDATION = "clips/train", "clips/validation"  # below the work directory


def make_clips(config: DecoderExperimentConfig, workdir: Path, *, quiet: bool = False) -> None:
    """Writes the clips that WORKDIR lacks; a stopped call goes on where it stopped.

    Raises:
      InputError: a source or the checkpoint cannot be used, or WORKDIR has clips of other settings.
    """
    clips, data = config.clips, config.data
    held_out = dataclasses.replace(
        data, source=config.train.validation_source or data.source, seed=data.seed + 1, flip_probability=0.0
    )
    for folder, count, settings in (
        (workdir / TRAIN, clips.count, data),
        (workdir / VALIDATION, clips.validation_count, held_out),
    ):
        _make(folder, count, settings, clips, config.model.checkpoint, quiet)


def _make(
    folder: Path, count: int, data: DataConfig, clips: ClipsConfig, checkpoint: str, quiet: bool
) -> None:
    description = {
        "count": count,
        "data": dataclasses.asdict(data),
        "mild_share": clips.mild_share,
        "mild_recipe": clips.mild_recipe,
        "checkpoint": checkpoint,
    }
    if (folder / INDEX).exists():
        if json.loads((folder / INDEX).read_text()) != description:
            raise InputError(f"{folder} has clips of other settings; choose another work directory")
        return
    folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(count) if not clip_path(folder, number).exists()]
    pipeline = StarPipeline.from_pretrained(checkpoint)
    with progress(f"Clips of {folder.name}", len(missing), "clips", quiet=quiet) as bar:
        for number, gt, lq in _degraded(missing, data, clips):
            write_clip(clip_path(folder, number), gt, lq, network_latents(pipeline, lq))
            bar.advance()
    finish(folder, description)


def _degraded(
    numbers: list[int], data: DataConfig, clips: ClipsConfig
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(number, truth, degraded frames) of each clip; a function of the settings and the number."""
    records = open_source(data.source, height=data.height, width=data.width)
    mild = dataclasses.replace(data, recipe=clips.mild_recipe)
    for number in numbers:
        is_mild = generator(data.seed, "mild", number).random() < clips.mild_share
        element = load_element(records[number % len(records)], mild if is_mild else data, number)
        yield number, np.asarray(element["gt"]), np.asarray(element["lq"])


def network_latents(pipeline: StarPipeline, frames: np.ndarray) -> np.ndarray:
    """The latents [F, h, w, C] that the network makes of low-resolution frames uint8 [F, H, W, 3]."""
    settings = UpscaleSettings(**dataclasses.asdict(pipeline.config.sampling))

    def read(size: int) -> Iterator[np.ndarray]:
        return (frames[start : start + size] for start in range(0, len(frames), size))

    return np.asarray(pipeline.latents(read, len(frames), frames.shape[1:3], settings))[0]
