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
    """A sequence of records, as the loader reads them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def open_source(location: str, *, height: int = 720, width: int = 1280) -> ClipSource:
    """Opens a source; its kind follows from what is at the location.

    Args:
      location: a path or URL of
        - a folder of videos, with or without a caption `name.txt` beside each;
        - a folder with gt/, lq/ and text/ (STAR's paired layout, matched by name);
        - a folder written by `star-jax prepare` (or one of its splits, `folder/validation`);
        - a folder of restored clips (`star_jax.data.restored`);
        - a .csv with columns `path` and `text`, or a .jsonl with those keys (paths relative to the file);
        or `synthetic`, `synthetic:COUNT`, `synthetic:COUNT:FOLDER_OF_PHOTOS` for made-up moving shapes,
        `scenes:COUNT`, `scenes:COUNT:FOLDER_OF_PHOTOS`, `scenes:COUNT:held-out` for made-up scenes to train a
        small model on, or to test it with.
      height, width: size of made-up videos in pixels.

    Returns:
      a sequence of ClipRecord, PreparedRecord or RestoredRecord.

    Raises:
      InputError: the location is no source, or it has no videos.
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
            f"there is no data source at {location}; give a folder of videos, a .csv or .jsonl, or 'synthetic'"
        )
    if not records:
        raise InputError(f"{location} has no videos ({', '.join(sorted(VIDEO_SUFFIXES))})")
    return records


def folder_source(folder: str) -> list[ClipRecord]:
    """Lists every video below a folder, with the caption `name.txt` beside it if there is one."""
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
    """Lists STAR's paired layout, matched by name (the original matches by position in unsorted listings).

    Raises:
      InputError: a video is in only one of gt/ and lq/.
    """
    truth, low = (_videos_by_stem(storage.join(folder, part)) for part in ("gt", "lq"))
    unmatched = sorted(set(truth) ^ set(low))
    if unmatched:
        raise InputError(
            f"{len(unmatched)} videos of {folder} are in only one of gt/ and lq/; add the missing ones or remove "
            f"these, starting with {unmatched[0]!r}"
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
    """Reads STAR's CSV: a header with `path` and, optionally, `text`.

    Raises:
      InputError: the file does not exist, has no `path` column, or lists a video twice.
    """
    rows = csv.DictReader(io.StringIO(_text_of(path)))
    if "path" not in (rows.fieldnames or ()):
        raise InputError(
            f"{path} has columns {rows.fieldnames}; a clip list needs 'path', and 'text' for captions"
        )
    return _listed(path, list(rows))


def jsonl_source(path: str) -> list[ClipRecord]:
    """Reads one JSON object per line: `path`, and optionally `text` and `lq` (the low-resolution video).

    Raises:
      InputError: the file does not exist, a line is not a JSON object with `path`, or a video is listed twice.
    """
    rows = []
    for number, line in enumerate(_text_of(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"line {number} of {path} is not JSON: {error}") from error
        if not isinstance(row, dict) or "path" not in row:
            raise InputError(f"line {number} of {path} is not a JSON object with the key 'path'")
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
    """Lists `synthetic:COUNT` made-up videos (64 without a count), over painted backgrounds or photos.

    Raises:
      InputError: the count is not a positive number, or the folder has no photos.
    """
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
      InputError: the folder has no photos.
    """
    names = storage.list_files(folder)
    photos = [storage.join(folder, n) for n in names if PurePosixPath(n).suffix.lower() in PHOTO_SUFFIXES]
    if not photos:
        raise InputError(f"{folder} has no photos ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return photos


# Number of the first scene to test with; scenes to train on have smaller numbers.
_HELD_OUT = 1_000_000


def scene_source(location: str, height: int, width: int) -> list[ClipRecord]:
    """Lists `scenes:COUNT` made-up scenes (see `star_jax.data.made_up.scenes`).

    `scenes:COUNT:held-out` lists scenes to test with, and `scenes:COUNT:FOLDER` uses the photos of a folder, too.

    Raises:
      InputError: the location has none of these forms, or the folder has no photos.
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
            f"{location!r} is no source of scenes; write scenes:COUNT, scenes:COUNT:held-out or "
            f"scenes:COUNT:FOLDER_OF_PHOTOS, with COUNT from 1 to {_HELD_OUT}"
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
    """A scene to test with. No training scene has its number, nor the photo that is shown in half of these."""
    return SceneVideo(_HELD_OUT + index, height, width, photo=None if index % 2 else HELD_OUT_PHOTO)
