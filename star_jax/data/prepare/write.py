"""Prepares a dataset: `begin`, then one shard after another, then `finish`; resumable, over several processes."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from star_jax.data.prepare.manifest import MANIFEST, SPLITS
from star_jax.data.prepare.plan import Plan, PrepareConfig, plan
from star_jax.data.prepare.shards import (
    Encoder,
    clip_encoder,
    is_written,
    part_path,
    shard_builder,
    write_shard,
    written_parts,
)
from star_jax.errors import InputError, RunError
from star_jax.files import write_json
from star_jax.progress import progress

__all__ = [
    "Encoder",
    "Plan",
    "PrepareConfig",
    "begin",
    "clip_encoder",
    "finish",
    "is_written",
    "judge",
    "plan",
    "prepare",
    "write_shard",
]


def prepare(
    config: PrepareConfig,
    encoder: Encoder,
    *,
    process_index: int = 0,
    process_count: int = 1,
    quiet: bool = True,
) -> dict[str, Any] | None:
    """Writes this process's shards; the process that finds all shards written finishes the dataset.

    Complete shards are kept, so the same call resumes. After a call that ended because of too many bad clips, it
    tries the shards with bad clips again.

    Args:
      config: the dataset to prepare.
      encoder: makes the examples.
      process_index, process_count: index of this process, and number of processes that share the work.
      quiet: whether to show no progress.

    Returns:
      the manifest if the dataset is finished, else None (other processes are still writing).

    Raises:
      InputError: the source is unusable, or the output holds a dataset with other settings.
      RunError: more clips are bad than `data.max_bad_share` allows, or no clip is left.
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
    """Plans a dataset, and creates its folder or checks that it was begun with the same settings.

    Arguments and errors: see `prepare`.
    """
    work = plan(config)
    output = epath.Path(config.output)
    _claim(output, _settings(config, encoder, work))
    if not (output / MANIFEST).exists():
        mine = work.all_shards()[process_index::process_count]
        _drop_bad_shards(output, work, mine, config.data.max_bad_share)
    return work


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
    return json.loads(json.dumps(settings))  # as they are read from the file: lists for tuples


def _claim(output: epath.Path, settings: dict[str, Any]) -> None:
    """Writes the settings on the first call, and compares them on later calls."""
    path = output / "settings.json"
    if path.exists():
        before = json.loads(path.read_text())
        changed = sorted(name for name in settings if before.get(name, settings[name]) != settings[name])
        if changed:
            raise InputError(
                f"{output} was begun with other settings ({', '.join(changed)}); give the same to continue, or "
                f"another output folder"
            )
        return
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _too_many_skipped(
    parts: Sequence[dict[str, Any]], num_clips: int, max_bad_share: float
) -> list[dict[str, str]]:
    """The clips that could not be used if they are more than the allowed share of all clips, else none."""
    skipped = [entry for part in parts for entry in part["skipped"]]
    return skipped if len(skipped) > max_bad_share * num_clips else []


def judge(config: PrepareConfig, num_shards: Mapping[str, int], num_clips: int) -> None:
    """Stops the work as soon as too many clips are bad.

    Raises:
      RunError: more clips are bad than `data.max_bad_share` allows.
    """
    share = config.data.max_bad_share
    shards = [(split, index) for split, count in num_shards.items() for index in range(count)]
    if skipped := _too_many_skipped(written_parts(epath.Path(config.output), shards), num_clips, share):
        raise RunError(
            f"{len(skipped)} of {num_clips} clips could not be used, more than the share {share:g} "
            f"allows; the last one was {skipped[-1]['key']}: {skipped[-1]['reason']}"
        )


def _drop_bad_shards(
    output: epath.Path, work: Plan, mine: Sequence[tuple[str, int]], max_bad_share: float
) -> None:
    """After a call that ended because of bad clips, marks this process's shards with bad clips as missing."""
    if _too_many_skipped(written_parts(output, work.all_shards()), work.num_clips, max_bad_share):
        for part in written_parts(output, mine):
            if part["skipped"]:
                part_path(output, part["split"], part["index"]).unlink()


def finish(config: PrepareConfig, encoder: Encoder, work: Plan) -> dict[str, Any] | None:
    """Writes the index of a dataset once all shards are complete; returns the manifest, or None before that.

    Raises:
      RunError: no clip is left.
    """
    output, max_bad_share = epath.Path(config.output), config.data.max_bad_share
    parts = written_parts(output, work.all_shards())
    if len(parts) < len(work.all_shards()):
        return None
    if not (output / MANIFEST).exists() and _too_many_skipped(parts, work.num_clips, max_bad_share):
        return None  # another process is about to write its bad shards again
    counts = {split: sum(p["clips"] for p in parts if p["split"] == split) for split in SPLITS}
    if not sum(counts.values()):
        raise RunError(f"none of {work.num_found} clips is usable; the reasons are in {output}/parts")
    lengths = {split: [p["clips"] for p in parts if p["split"] == split] for split in SPLITS}
    sizes = {split: sum(p["bytes"] for p in parts if p["split"] == split) for split in SPLITS}
    shard_builder(config, encoder, work.num_shards, {}).finish(lengths, sizes)
    skipped = [entry for part in parts for entry in part["skipped"]]
    skipped += [{"key": key, "reason": f"the same as {first}"} for key, first in work.duplicates.items()]
    manifest = _settings(config, encoder, work) | {
        "counts": {"found": work.num_found, "skipped": len(skipped), **counts},
        "shards": [{k: v for k, v in part.items() if k != "skipped"} for part in parts],
        "skipped": skipped,
    }
    write_json(output / MANIFEST, manifest)
    return manifest
