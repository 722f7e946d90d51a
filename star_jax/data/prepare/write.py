"""Preparing a dataset: filter, split, degrade and write shards; resumable, over several processes."""

import collections
import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import fsspec
from etils import epath

from star_jax.data import storage
from star_jax.data.clips import load_window
from star_jax.data.config import DataConfig
from star_jax.data.degradations import degrade
from star_jax.data.prepare.clip_bytes import encode_clip
from star_jax.data.prepare.manifest import MANIFEST, SPLITS
from star_jax.data.prepare.read import Example, ExampleShape, StarClips
from star_jax.data.records import BadClipError, ClipRecord
from star_jax.data.sources import open_source
from star_jax.errors import InputError, RunError
from star_jax.files import write_json
from star_jax.progress import Reporter, progress

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """A dataset to prepare.

    Attributes:
      data: source, recipe, sizes and seed. Clips shorter than `num_frames` at `frame_interval` 1, or smaller
        than the bucket by more than `max_upscale`, are left out.
      output: folder of the dataset; local, or a URL that etils opens.
      num_degradations: number of low-resolution clips per ground-truth clip, K.
      validation_share: share of the clips for validation, chosen by the hash of their keys.
      clips_per_shard: number of clips in a shard, which is the unit of work, of resuming and of distribution.
      max_bad_share: share of unusable files over which preparing stops.
    """

    data: DataConfig
    output: str
    num_degradations: int = 1
    validation_share: float = 0.01
    clips_per_shard: int = 64

    def __post_init__(self):
        if not 0 <= self.validation_share < 1:
            raise InputError(f"validation share is {self.validation_share:g}; it must be in 0..1")
        for name in ("num_degradations", "clips_per_shard"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Makes the stored features of an example, as in `shape`, from clips and caption.

    Attributes:
      weights_sha256: SHA-256 of the networks that encode; None without such networks.
    """

    shape: ExampleShape
    encode: Callable[[Any, list, str], Example]
    weights_sha256: str | None = None


def clip_encoder(config: PrepareConfig) -> Encoder:
    """Stores encoded clips."""
    data = config.data
    scale = data.make_recipe().scale
    shape = ExampleShape(data.num_frames, data.height, data.width, scale, config.num_degradations)

    def encode(truth, lows, text: str) -> Example:
        clips = [encode_clip(low, lossless=True) for low in lows]
        return {"text": text, "gt": encode_clip(truth, lossless=False), "lq": clips}

    return Encoder(shape, encode)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The shard of each clip; the same on every process.

    Attributes:
      shards: split -> one list of (position, record) per shard.
      duplicates: key -> key of the clip it repeats.
      num_found: number of clips in the source.
    """

    shards: dict[str, list[list[tuple[int, ClipRecord]]]]
    duplicates: dict[str, str]
    num_found: int

    @property
    def num_clips(self) -> int:
        """Clips to be prepared: without duplicates."""
        return sum(len(clips) for shards in self.shards.values() for clips in shards)

    @property
    def num_shards(self) -> dict[str, int]:
        """Number of shards of each split."""
        return {split: len(self.shards[split]) for split in SPLITS}

    def all_shards(self) -> list[tuple[str, int]]:
        return [(split, index) for split in SPLITS for index in range(len(self.shards[split]))]


def plan(config: PrepareConfig) -> Plan:
    """Finds the clips, drops duplicates (same bytes), splits by hash and deals clips to shards.

    Raises:
      InputError: no usable source, or K > 1 for a paired one.
    """
    source = open_source(config.data.source, height=config.data.height, width=config.data.width)
    records = cast(Sequence[ClipRecord], source)
    if config.num_degradations > 1 and any(record.low_video for record in records):
        raise InputError(
            f"{config.data.source} has its own low-resolution videos, one per clip; give num_degradations 1"
        )
    duplicates = _find_duplicates(records)
    members: dict[str, list[tuple[int, ClipRecord]]] = {split: [] for split in SPLITS}
    for position, record in enumerate(records):
        if record.key not in duplicates:
            split = "validation" if _hash_share(record.key) < config.validation_share else "train"
            members[split].append((position, record))
    size = config.clips_per_shard
    shards = {
        split: [clips[start : start + size] for start in range(0, len(clips), size)]
        for split, clips in members.items()
    }
    return Plan(shards, duplicates, len(records))


def _hash_share(key: str) -> float:
    """A number in 0..1 that depends on the key alone: growing the source moves no clip to another split."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def _find_duplicates(records: Sequence[ClipRecord]) -> dict[str, str]:
    """Files of equal size are compared by their SHA-256; the first by order stays."""
    by_size: dict[int, list[ClipRecord]] = collections.defaultdict(list)
    for record in records:
        if isinstance(record.video, str) and storage.exists(record.video):
            filesystem, inner = fsspec.core.url_to_fs(record.video)
            by_size[filesystem.size(inner)].append(record)
    duplicates = {}
    for group in by_size.values():
        seen: dict[str, str] = {}
        for record in group if len(group) > 1 else ():
            digest = hashlib.sha256(storage.read_bytes(str(record.video))).hexdigest()
            if digest in seen:
                duplicates[record.key] = seen[digest]
            seen.setdefault(digest, record.key)
    return duplicates


def prepare(
    config: PrepareConfig,
    encoder: Encoder,
    *,
    process_index: int = 0,
    process_count: int = 1,
    quiet: bool = True,
) -> dict[str, Any] | None:
    """Writes this process's shards; the process that finds all shards written finishes the dataset.

    Shards that are there already are kept, so the same call resumes; after too many clips were bad, it tries those
    again.

    Args:
      config: the dataset to prepare.
      encoder: makes the examples.
      process_index, process_count: number of this process, and of all that share the work.
      quiet: whether to show no progress.

    Returns:
      the manifest where the dataset is finished, else None (other processes still write).

    Raises:
      InputError: no usable source, or the output holds a dataset of other settings.
      RunError: more clips are bad than `data.max_bad_share` allows, or none is left.
    """
    work = begin(config, encoder, process_index=process_index, process_count=process_count)
    mine = work.all_shards()[process_index::process_count]
    num_clips = sum(len(work.shards[split][index]) for split, index in mine)
    with progress("Preparing", num_clips, "clips", quiet=quiet) as bar:
        for split, index in mine:
            clips = work.shards[split][index]
            if is_written(config, split, index):
                bar.advance(len(clips))
                continue
            entry = write_shard(config, encoder, work.num_shards, split, index, clips, bar)
            if entry["skipped"]:
                judge(config, work.num_shards, work.num_clips)
    return finish(config, encoder, work)


def begin(config: PrepareConfig, encoder: Encoder, *, process_index: int = 0, process_count: int = 1) -> Plan:
    """Plans a dataset, and makes its folder or checks that it was begun with the same settings.

    Arguments and errors: see `prepare`.
    """
    work = plan(config)
    output = epath.Path(config.output)
    _claim(output, _settings(config, encoder, work))
    if not (output / MANIFEST).exists():
        mine = work.all_shards()[process_index::process_count]
        _drop_bad_shards(output, work, mine, config.data.max_bad_share)
    return work


def is_written(config: PrepareConfig, split: str, index: int) -> bool:
    """Whether a shard is there, as a whole."""
    return _part(epath.Path(config.output), split, index).exists()


def write_shard(
    config: PrepareConfig,
    encoder: Encoder,
    num_shards: Mapping[str, int],
    split: str,
    index: int,
    clips: list[tuple[int, ClipRecord]],
    bar: Reporter,
) -> dict[str, Any]:
    """Writes a shard, then the note that it is there.

    Args:
      num_shards: number of shards of each split.
      split, index: the shard.
      clips: (position, record) of its clips.
      bar: is told of every clip.

    Returns:
      the note: the shard's entry in the manifest, and the clips left out.
    """
    skipped: list[dict[str, str]] = []
    builder = _builder(
        config, encoder, num_shards, {(split, index): _examples(config, encoder, bar, clips, skipped)}
    )
    count, digest, size = builder.write_shard(split, index)
    entry = {"split": split, "index": index, "clips": count, "sha256": digest, "bytes": size}
    entry |= {"file": builder.shard_path(split, index).name, "skipped": skipped}
    part = _part(epath.Path(config.output), split, index)
    part.parent.mkdir(parents=True, exist_ok=True)
    write_json(part, entry)
    return entry


def _builder(
    config: PrepareConfig,
    encoder: Encoder,
    num_shards: Mapping[str, int],
    examples: Mapping[tuple[str, int], Callable[[], Iterator[tuple[str, Example]]]],
) -> StarClips:
    """A builder that can write the shards of which there are examples."""
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
    """Makes a generator of a shard's examples; clips that it leaves out go into `skipped`."""
    data = dataclasses.replace(config.data, flip_probability=0.0)
    recipe = data.make_recipe()

    def generate() -> Iterator[tuple[str, Example]]:
        for position, record in clips:
            bar.advance()
            try:
                window = load_window(record, data, position)
            except BadClipError as error:
                logger.warning("skipped clip %s: %s", record.key, error)
                skipped.append({"key": record.key, "reason": str(error)})
                continue
            if window.low is None:
                copies = range(config.num_degradations)
                pairs = [degrade(window.truth, recipe, data.seed, position, copy) for copy in copies]
            else:
                pairs = [(window.truth, window.low)]
            example = encoder.encode(pairs[0][0], [low for _, low in pairs], window.text)
            yield record.key, {"key": record.key, **example}

    return generate


def _settings(config: PrepareConfig, encoder: Encoder, work: Plan) -> dict[str, Any]:
    """The settings that must be equal for a call to continue another."""
    source = hashlib.sha256("\0".join(r.key for s in SPLITS for p in work.shards[s] for _, r in p).encode())
    settings = {
        "shape": dataclasses.asdict(encoder.shape),
        "recipe": dataclasses.asdict(config.data.make_recipe()),
        "seed": config.data.seed,
        "frame_interval": config.data.frame_interval,
        "max_upscale": config.data.max_upscale,
        "validation_share": config.validation_share,
        "clips_per_shard": config.clips_per_shard,
        "source_sha256": source.hexdigest(),
    }
    if encoder.weights_sha256 is not None:
        settings["weights_sha256"] = encoder.weights_sha256
    return json.loads(json.dumps(settings))  # as it will be read again: lists for tuples


def _claim(output: epath.Path, settings: dict[str, Any]) -> None:
    """Writes the settings on the first call, and holds later calls to them."""
    path = output / "settings.json"
    if path.exists():
        before = json.loads(path.read_text())
        changed = sorted(name for name in settings if before.get(name, settings[name]) != settings[name])
        if changed:
            raise InputError(
                f"{output} was begun with another {', '.join(changed)}; give the same settings to continue, or "
                f"another output folder"
            )
        return
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _part(output: epath.Path, split: str, index: int) -> epath.Path:
    return output / "parts" / f"{split}-{index:05d}.json"


def _parts(output: epath.Path, shards: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    paths = [_part(output, *shard) for shard in shards]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def _too_many_skipped(
    parts: Sequence[dict[str, Any]], num_clips: int, max_bad_share: float
) -> list[dict[str, str]]:
    """The clips that could not be used, where they are more than the share of all that were to be prepared."""
    skipped = [entry for part in parts for entry in part["skipped"]]
    return skipped if len(skipped) > max_bad_share * num_clips else []


def judge(config: PrepareConfig, num_shards: Mapping[str, int], num_clips: int) -> None:
    """Ends the work as soon as too many clips were bad, whatever the other clips are.

    Raises:
      RunError: they are.
    """
    share = config.data.max_bad_share
    shards = [(split, index) for split, count in num_shards.items() for index in range(count)]
    if skipped := _too_many_skipped(_parts(epath.Path(config.output), shards), num_clips, share):
        raise RunError(
            f"{len(skipped)} of {num_clips} clips could not be used, more than the share {share:g} "
            f"allows; the last: {skipped[-1]['key']}: {skipped[-1]['reason']}"
        )


def _drop_bad_shards(
    output: epath.Path, work: Plan, mine: Sequence[tuple[str, int]], max_bad_share: float
) -> None:
    """After a call that ended for its bad clips, this process's shards that lack some are to be written again."""
    if _too_many_skipped(_parts(output, work.all_shards()), work.num_clips, max_bad_share):
        for part in _parts(output, mine):
            if part["skipped"]:
                _part(output, part["split"], part["index"]).unlink()


def finish(config: PrepareConfig, encoder: Encoder, work: Plan) -> dict[str, Any] | None:
    """Writes the index of a dataset whose shards are all there; returns the manifest, or None.

    Raises:
      RunError: no clip is left.
    """
    output, max_bad_share = epath.Path(config.output), config.data.max_bad_share
    parts = _parts(output, work.all_shards())
    if len(parts) < len(work.all_shards()):
        return None
    if not (output / MANIFEST).exists() and _too_many_skipped(parts, work.num_clips, max_bad_share):
        return None  # another process is about to write its bad shards again
    counts = {split: sum(p["clips"] for p in parts if p["split"] == split) for split in SPLITS}
    if not sum(counts.values()):
        raise RunError(f"no clip of {work.num_found} is left; the reasons are in {output}/parts")
    lengths = {split: [p["clips"] for p in parts if p["split"] == split] for split in SPLITS}
    sizes = {split: sum(p["bytes"] for p in parts if p["split"] == split) for split in SPLITS}
    _builder(config, encoder, work.num_shards, {}).finish(lengths, sizes)
    skipped = [entry for part in parts for entry in part["skipped"]]
    skipped += [{"key": key, "reason": f"the same as {first}"} for key, first in work.duplicates.items()]
    manifest = _settings(config, encoder, work) | {
        "counts": {"found": work.num_found, "skipped": len(skipped), **counts},
        "shards": [{k: v for k, v in part.items() if k != "skipped"} for part in parts],
        "skipped": skipped,
    }
    write_json(output / MANIFEST, manifest)
    return manifest
