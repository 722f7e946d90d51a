"""Clips to train a light decoder on: ground truth, low resolution, and the latents that a network restores."""

import contextlib
import dataclasses
import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from star_jax.data.clips import load_element
from star_jax.data.config import DataConfig
from star_jax.data.loader import in_workers
from star_jax.data.restored import INDEX, clip_path, finish, write_clip
from star_jax.data.rng import generator
from star_jax.data.sources import open_source
from star_jax.diffusion.noise import noise_key
from star_jax.errors import InputError
from star_jax.inference.pieces import Canvas, encode_chunk
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.video_model import Params, VideoModel
from star_jax.progress import progress
from star_jax.train.decoder.config import ClipsConfig, DecoderExperimentConfig

TRAIN, VALIDATION = "clips/train", "clips/validation"  # below the work directory
_TOGETHER = 8  # number of clips in a batch of the network
_NOT_OF_CLIPS = ("num_workers", "worker_buffer", "read_threads")  # settings that do not change the clips


def make_clips(config: DecoderExperimentConfig, workdir: Path, *, quiet: bool = False) -> None:
    """Writes the clips that are missing in WORKDIR, so that the same call resumes one that was stopped.

    Raises:
      InputError: a source or the checkpoint cannot be used, or WORKDIR has clips made with other settings.
    """
    clips, data = config.clips, config.data
    held_out = dataclasses.replace(
        data, source=config.train.validation_source or data.source, seed=data.seed + 1, flip_probability=0.0
    )
    _make(workdir / TRAIN, clips.count, data, clips, config.model.checkpoint, quiet)
    if config.train.validate_every_steps:
        _make(workdir / VALIDATION, clips.validation_count, held_out, clips, config.model.checkpoint, quiet)


def _make(
    folder: Path, count: int, data: DataConfig, clips: ClipsConfig, checkpoint: str, quiet: bool
) -> None:
    description = {
        "count": count,
        "data": {
            name: value for name, value in dataclasses.asdict(data).items() if name not in _NOT_OF_CLIPS
        },
        "mild_share": clips.mild_share,
        "mild_recipe": clips.mild_recipe,
        "checkpoint": checkpoint,
    }
    if (folder / INDEX).exists():
        if json.loads((folder / INDEX).read_text()) != description:
            raise InputError(f"{folder} has clips made with other settings; choose another work directory")
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Clips of a group share a draw of noise, so a group is always made as a whole.
    groups = [range(first, min(first + _TOGETHER, count)) for first in range(0, count, _TOGETHER)]
    groups = [group for group in groups if not all(clip_path(folder, number).exists() for number in group)]
    pipeline = StarPipeline.from_pretrained(checkpoint)
    with (
        progress(f"Clips of {folder.name}", sum(map(len, groups)), "clips", quiet=quiet) as bar,
        contextlib.closing(_degraded([number for group in groups for number in group], data, clips)) as pairs,
    ):
        for group in groups:
            gt, lq = (np.stack(frames) for frames in zip(*itertools.islice(pairs, len(group)), strict=True))
            latents = network_latents(pipeline, lq, seed=group.start)
            for row, number in enumerate(group):
                write_clip(clip_path(folder, number), gt[row], lq[row], latents[row])
            bar.advance(len(group))
    finish(folder, description)


@dataclasses.dataclass(frozen=True)
class _Degrade:
    """Number of a clip -> (ground truth, low resolution), which depend on the settings and the number alone."""

    records: Any = dataclasses.field(repr=False)  # Grain takes the repr, which takes minutes for many records
    data: DataConfig
    clips: ClipsConfig

    def __call__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        is_mild = generator(self.data.seed, "mild", number).random() < self.clips.mild_share
        data = dataclasses.replace(self.data, recipe=self.clips.mild_recipe) if is_mild else self.data
        element = load_element(self.records[number % len(self.records)], data, number)
        return np.asarray(element["gt"]), np.asarray(element["lq"])


def _degraded(numbers: list[int], data: DataConfig, clips: ClipsConfig) -> grain.DatasetIterator:
    """The clips with these numbers, made by `data.num_workers` processes."""
    records = open_source(data.source, height=data.height, width=data.width)
    pairs = grain.MapDataset.source(numbers).map(_Degrade(records, data, clips))
    return iter(in_workers(pairs.to_iter_dataset(), data))


def network_latents(pipeline: StarPipeline, frames: np.ndarray, seed: int = 0) -> np.ndarray:
    """The latents [B, F, h, w, C] that the network restores from low-resolution clips uint8 [B, F, H, W, 3]."""
    settings = UpscaleSettings(**dataclasses.asdict(pipeline.config.sampling))
    canvas, key = pipeline.canvas(frames.shape[2:4], settings), noise_key(seed)
    model = pipeline.model
    params = {name: pipeline.params[name] for name in model.autoencoder_components}
    hint = _encode(model, canvas, params, frames, key)
    text, negative = pipeline.denoiser.encode_prompts(settings)
    contexts = (
        jnp.repeat(text, len(frames), axis=0),
        None if negative is None else jnp.repeat(negative, len(frames), axis=0),
    )
    return np.asarray(pipeline.denoiser.sample(hint, contexts, settings, key))


@partial(jax.jit, static_argnames=("model", "canvas"))
def _encode(
    model: VideoModel, canvas: Canvas, params: Params, frames: jax.Array, key: jax.Array
) -> jax.Array:
    def of_clip(frames: jax.Array) -> jax.Array:
        return encode_chunk(model, canvas, params, frames, None, key, jnp.int32(0))[0]

    return jax.vmap(of_clip)(frames)
