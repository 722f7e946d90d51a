"""Writes the shards of a prepared dataset: reads, degrades, encodes and stores clips."""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from star_jax.data.clips import cut_clip
from star_jax.data.degradations import degrade
from star_jax.data.prepare.clip_bytes import encode_clip
from star_jax.data.prepare.plan import PrepareConfig
from star_jax.data.prepare.read import Example, ExampleShape, StarClips
from star_jax.data.records import BadClipError, ClipRecord
from star_jax.files import write_json
from star_jax.progress import Reporter

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Makes the stored features of an example from its clips and caption.

    Attributes:
      shape: sizes of an example.
      encode: (ground truth, low-resolution clips, caption) -> features.
      weights_sha256: SHA-256 of the weights of the networks that encode; None if there are none.
    """

    shape: ExampleShape
    encode: Callable[[Any, list, str], Example]
    weights_sha256: str | None = None


def clip_encoder(config: PrepareConfig) -> Encoder:
    """Returns the encoder that stores clips as MP4 files."""
    data = config.data
    scale = data.make_recipe().scale
    shape = ExampleShape(data.num_frames, data.height, data.width, scale, config.num_degradations)

    def encode(truth, lows, text: str) -> Example:
        clips = [encode_clip(low, lossless=True) for low in lows]
        return {"text": text, "gt": encode_clip(truth, lossless=False), "lq": clips}

    return Encoder(shape, encode)


def is_written(config: PrepareConfig, split: str, index: int) -> bool:
    """Whether a shard is completely written."""
    return part_path(epath.Path(config.output), split, index).exists()


def write_shard(
    config: PrepareConfig,
    encoder: Encoder,
    num_shards: Mapping[str, int],
    split: str,
    index: int,
    clips: list[tuple[int, ClipRecord]],
    bar: Reporter,
) -> dict[str, Any]:
    """Writes a shard, then the note that it is complete.

    Args:
      num_shards: number of shards of each split.
      split, index: the shard.
      clips: (position, record) of its clips.
      bar: progress bar, advanced by one for each clip.

    Returns:
      the note: the shard's entry in the manifest, and the clips that were skipped.
    """
    skipped: list[dict[str, str]] = []
    builder = shard_builder(
        config, encoder, num_shards, {(split, index): _examples(config, encoder, bar, clips, skipped)}
    )
    count, digest, size = builder.write_shard(split, index)
    entry = {"split": split, "index": index, "clips": count, "sha256": digest, "bytes": size}
    entry |= {"file": builder.shard_path(split, index).name, "skipped": skipped}
    part = part_path(epath.Path(config.output), split, index)
    part.parent.mkdir(parents=True, exist_ok=True)
    write_json(part, entry)
    return entry


def shard_builder(
    config: PrepareConfig,
    encoder: Encoder,
    num_shards: Mapping[str, int],
    examples: Mapping[tuple[str, int], Callable[[], Iterator[tuple[str, Example]]]],
) -> StarClips:
    """Returns a builder that can write the shards in `examples`; all others are empty."""
    shards = {
        split: [examples.get((split, index), _no_examples) for index in range(count)]
        for split, count in num_shards.items()
    }
    return StarClips(config.output, encoder.shape, shards)


def _no_examples() -> Iterator[tuple[str, Example]]:
    return iter(())


def _examples(
    config: PrepareConfig,
    encoder: Encoder,
    bar: Reporter,
    clips: list[tuple[int, ClipRecord]],
    skipped: list[dict[str, str]],
) -> Callable[[], Iterator[tuple[str, Example]]]:
    """Makes a generator of a shard's examples, which appends the clips that it skips to `skipped`."""
    data = dataclasses.replace(config.data, flip_probability=0.0)
    recipe = data.make_recipe()

    def generate() -> Iterator[tuple[str, Example]]:
        for position, record in clips:
            bar.advance()
            try:
                clip = cut_clip(record, data, position)
            except BadClipError as error:
                logger.warning("skipped clip %s: %s", record.key, error)
                skipped.append({"key": record.key, "reason": str(error)})
                continue
            if clip.low is None:
                copies = range(config.num_degradations)
                pairs = [degrade(clip.truth, recipe, data.seed, position, copy) for copy in copies]
            else:
                pairs = [(clip.truth, clip.low)]
            example = encoder.encode(pairs[0][0], [low for _, low in pairs], clip.text)
            yield record.key, {"key": record.key, **example}

    return generate


def part_path(output: epath.Path, split: str, index: int) -> epath.Path:
    """Path of the note that a shard is complete."""
    return output / "parts" / f"{split}-{index:05d}.json"


def written_parts(output: epath.Path, shards: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """The notes of those shards that are complete."""
    paths = [part_path(output, *shard) for shard in shards]
    return [json.loads(path.read_text()) for path in paths if path.exists()]
