"""Plan of a prepared dataset: its settings, and the shard of each clip."""

import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import cast

import fsspec

from star_jax.data import storage
from star_jax.data.config import DataConfig
from star_jax.data.prepare.manifest import SPLITS
from star_jax.data.records import ClipRecord
from star_jax.data.sources import open_source
from star_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """A dataset to prepare.

    Attributes:
      data: source, recipe, sizes and seed. Clips shorter than `num_frames` at `frame_interval` 1, or smaller
        than the bucket by more than `max_upscale`, are left out.
      output: folder of the dataset: a local path, or a URL that etils can open.
      num_degradations: number of low-resolution clips per ground-truth clip, K.
      validation_share: share of the clips for validation, chosen by the hash of their keys.
      clips_per_shard: number of clips in a shard, which is the unit of work, of resuming and of distribution.
    """

    data: DataConfig
    output: str
    num_degradations: int = 1
    validation_share: float = 0.01
    clips_per_shard: int = 64

    def __post_init__(self):
        if not 0 <= self.validation_share < 1:
            raise InputError(
                f"the validation share is {self.validation_share:g}; it must be at least 0 and less than 1"
            )
        for name in ("num_degradations", "clips_per_shard"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The shard of each clip; the same in every process.

    Attributes:
      shards: split -> one list of (position, record) per shard.
      duplicates: key -> key of the clip that has the same bytes.
      num_found: number of clips in the source.
    """

    shards: dict[str, list[list[tuple[int, ClipRecord]]]]
    duplicates: dict[str, str]
    num_found: int

    @property
    def num_clips(self) -> int:
        """Number of clips to be prepared, without duplicates."""
        return sum(len(clips) for shards in self.shards.values() for clips in shards)

    @property
    def num_shards(self) -> dict[str, int]:
        """Number of shards of each split."""
        return {split: len(self.shards[split]) for split in SPLITS}

    def all_shards(self) -> list[tuple[str, int]]:
        return [(split, index) for split in SPLITS for index in range(len(self.shards[split]))]


def plan(config: PrepareConfig) -> Plan:
    """Finds the clips, drops duplicates (same bytes), splits by hash and assigns clips to shards.

    Raises:
      InputError: the source is unusable, or K > 1 for a paired source.
    """
    source = open_source(config.data.source, height=config.data.height, width=config.data.width)
    records = cast(Sequence[ClipRecord], source)
    if config.num_degradations > 1 and any(record.low_video for record in records):
        raise InputError(
            f"{config.data.source} has one low-resolution video per clip already; give num_degradations 1"
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
    """A number in 0..1 that depends on the key alone: a larger source moves no clip to another split."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def _find_duplicates(records: Sequence[ClipRecord]) -> dict[str, str]:
    """Compares files of equal size by their SHA-256; the first of several equal files stays."""
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
