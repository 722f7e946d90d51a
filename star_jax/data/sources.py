"""Sources of clips: lists of records, one per video, in an order that is the same everywhere."""

import csv
import io
import json
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from star_jax.data import storage
from star_jax.data.made_up.scenes import HELD_OUT_PHOTO, PHOTOS, SceneVideo
from star_jax.data.made_up.synthetic import SyntheticVideo
from star_jax.data.prepare.manifest import MANIFEST, root_and_split
from star_jax.data.records import ClipRecord
from star_jax.data.restored import INDEX as RESTORED_INDEX
from star_jax.data.restored import RestoredSource
from star_jax.errors import InputError

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}
PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png"}


class ClipSource(Protocol):
    """What a loader draws from: records by their number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def open_source(location: str, *, height: int = 720, width: int = 1280) -> ClipSource:
    """Opens a source. The contents of its location decide its kind.

    Args:
      location: a path or URL of
        - a folder of videos, a caption `name.txt` beside each or not;
        - a folder with gt/, lq/ and text/ (STAR's paired layout, matched by name);
        - a folder written by `star-jax prepare` (or one of its splits, `folder/validation`);
        - a .csv with columns `path` and `text`, or a .jsonl with those keys (paths relative to the file);
        or `synthetic`, `synthetic:COUNT`, `synthetic:COUNT:FOLDER_OF_PHOTOS` for made-up moving shapes,
        `scenes:COUNT`, `scenes:COUNT:FOLDER_OF_PHOTOS`, `scenes:COUNT:held-out` for made-up scenes to train a
        small model on, or to test it with.
      height, width: size of the made-up ones.

    Returns:
      a sequence of ClipRecord, or of prepared records.

    Raises:
      InputError: nothing usable there.
    """
    if location.split(":")[0] == "synthetic":
        return synthetic_source(location, height, width)
    if location.split(":")[0] == "scenes":
        return scene_source(location, height, width)
    if storage.exists(storage.join(root_and_split(location)[0], MANIFEST)):
        from star_jax.data.prepare.read import (
            PreparedSource,  # imports tensorflow-datasets, which takes seconds
        )

        return PreparedSource(location)
    if storage.exists(storage.join(location, RESTORED_INDEX)):
        return RestoredSource(location)
    suffix = PurePosixPath(location).suffix.lower()
    if suffix in (".csv", ".jsonl"):
        records = csv_source(location) if suffix == ".csv" else jsonl_source(location)
    elif storage.is_folder(location):
        paired = all(storage.is_folder(storage.join(location, part)) for part in ("gt", "lq"))
        records = paired_source(location) if paired else folder_source(location)
    else:
        raise InputError(
            f"no data source at {location}: give a folder of videos, a .csv or .jsonl, or 'synthetic'"
        )
    if not records:
        raise InputError(f"{location} has no videos ({', '.join(sorted(VIDEO_SUFFIXES))})")
    return records


def folder_source(folder: str) -> list[ClipRecord]:
    """Every video below a folder, with the caption `name.txt` beside it where there is one."""
    names = storage.list_files(folder)
    present = set(names)
    records = []
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() in VIDEO_SUFFIXES:
            text = str(path.with_suffix(".txt"))
            text_path = storage.join(folder, text) if text in present else None
            records.append(ClipRecord(name, storage.join(folder, name), text_path=text_path))
    return records


def paired_source(folder: str) -> list[ClipRecord]:
    """STAR's paired layout, matched by name (the original pairs by position in unsorted listings).

    Raises:
      InputError: a video of gt/ has no partner in lq/.
    """
    truth, low = (_videos_by_stem(storage.join(folder, part)) for part in ("gt", "lq"))
    lonely = sorted(set(truth) ^ set(low))
    if lonely:
        raise InputError(
            f"{folder}: {len(lonely)} videos are in only one of gt/ and lq/, first {lonely[0]!r}"
        )
    text_folder = storage.join(folder, "text")
    texts = set(storage.list_files(text_folder)) if storage.is_folder(text_folder) else set()
    return [
        ClipRecord(
            stem,
            truth[stem],
            low[stem],
            text_path=storage.join(text_folder, f"{stem}.txt") if f"{stem}.txt" in texts else None,
        )
        for stem in sorted(truth)
    ]


def _videos_by_stem(folder: str) -> dict[str, str]:
    paths = (PurePosixPath(name) for name in storage.list_files(folder))
    return {
        str(path.with_suffix("")): storage.join(folder, str(path))
        for path in paths
        if path.suffix.lower() in VIDEO_SUFFIXES
    }


def csv_source(path: str) -> list[ClipRecord]:
    """STAR's CSV: a header with `path` and, optionally, `text`.

    Raises:
      InputError: no such file, or no `path` column.
    """
    rows = csv.DictReader(io.StringIO(_text_of(path)))
    if "path" not in (rows.fieldnames or ()):
        raise InputError(
            f"{path} has columns {rows.fieldnames}; a clip list needs 'path', and 'text' for captions"
        )
    return _listed(path, list(rows))


def jsonl_source(path: str) -> list[ClipRecord]:
    """One JSON object per line: `path`, optionally `text` and `lq` (the low-resolution video).

    Raises:
      InputError: no such file, a line is no JSON object, or it has no `path`.
    """
    rows = []
    for number, line in enumerate(_text_of(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict) or "path" not in row:
            raise InputError(f"{path}, line {number}: expected an object with the key 'path'")
        rows.append(row)
    return _listed(path, rows)


def _text_of(path: str) -> str:
    if not storage.exists(path):
        raise InputError(f"no such file: {path}; check the path")
    return storage.read_text(path)


def _listed(path: str, rows: list[dict]) -> list[ClipRecord]:
    folder = storage.parent(path)
    records = [
        ClipRecord(
            key=row["path"],
            video=storage.join(folder, row["path"]),
            low_video=storage.join(folder, row["lq"]) if row.get("lq") else None,
            text=row.get("text") or "",
        )
        for row in rows
    ]
    keys = {record.key for record in records}
    if len(keys) < len(records):
        raise InputError(f"{path} lists {len(records) - len(keys)} paths twice; list each video once")
    return records


def synthetic_source(location: str, height: int, width: int) -> list[ClipRecord]:
    """`synthetic:COUNT` made-up videos (64 where no count is given), over painted backgrounds or photos."""
    _, _, rest = location.partition(":")
    count, _, photo_folder = rest.partition(":")
    count = count or "64"
    if not count.isdigit() or int(count) < 1:
        raise InputError(f"{location!r}: the number of synthetic videos must be positive, as in synthetic:64")
    photos: list[str | None] = [None]
    if photo_folder:
        photos = list(_photos_of(photo_folder))
    return [
        ClipRecord(
            f"synthetic-{index:05d}",
            SyntheticVideo(index, height, width, photo=photos[index % len(photos)]),
            text="moving shapes and textures",
        )
        for index in range(int(count))
    ]


def _photos_of(folder: str) -> list[str]:
    """Paths of a folder's photos, in order.

    Raises:
      InputError: it has none.
    """
    names = storage.list_files(folder)
    photos = [storage.join(folder, n) for n in names if PurePosixPath(n).suffix in PHOTO_SUFFIXES]
    if not photos:
        raise InputError(f"{folder} has no photos ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return photos


# Number of the first scene to test with; scenes to train on have smaller ones.
_HELD_OUT = 1_000_000


def scene_source(location: str, height: int, width: int) -> list[ClipRecord]:
    """`scenes:COUNT` made-up scenes (see `star_jax.data.made_up.scenes`).

    `scenes:COUNT:held-out` are others, and `scenes:COUNT:FOLDER` take the photos of a folder as well.

    Raises:
      InputError: the location is none of these, or the folder has no photos.
    """
    _, _, rest = location.partition(":")
    count, _, which = rest.partition(":")
    names_photos = which not in ("", "held-out")
    if (
        not count.isdigit()
        or not 1 <= int(count) <= _HELD_OUT
        or (names_photos and not storage.is_folder(which))
    ):
        raise InputError(
            f"{location!r}: write scenes:COUNT, scenes:COUNT:held-out or scenes:COUNT:FOLDER_OF_PHOTOS, COUNT 1 "
            f"to {_HELD_OUT}"
        )
    photos: tuple[str, ...] = PHOTOS
    if names_photos:
        photos += tuple(str(Path(path).resolve()) for path in _photos_of(which))
    videos = (
        held_out_scene(index, height, width)
        if which == "held-out"
        else SceneVideo(index, height, width, photos=photos)
        for index in range(int(count))
    )
    return [ClipRecord(f"scene-{video.index:07d}", video) for video in videos]


def held_out_scene(index: int, height: int, width: int) -> SceneVideo:
    """A scene to test with: no training scene has its number, nor the photo that every other one shows."""
    return SceneVideo(_HELD_OUT + index, height, width, photo=None if index % 2 else HELD_OUT_PHOTO)
