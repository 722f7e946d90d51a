"""Sources: folders, lists, pairs by name, URLs, synthetic videos."""

import cv2
import fsspec
import numpy as np
import pytest
from video_files import scene, write_folder, write_video

from star_jax.data.clips import load_clip
from star_jax.data.config import DataConfig
from star_jax.data.made_up.synthetic import SyntheticVideo
from star_jax.data.sources import open_source
from star_jax.errors import InputError

SMALL = {
    "num_frames": 4,
    "frame_interval": 2,
    "height": 32,
    "width": 48,
    "recipe": "none",
    "caption_dropout": 0.0,
}


def load(location, index=0, **changes):
    record = open_source(str(location))[index]
    return load_clip(record, DataConfig(str(location), **{**SMALL, **changes}), index)


def test_folder_with_and_without_captions(tmp_path):
    write_folder(tmp_path, 2)
    (tmp_path / "deep").mkdir()
    write_video(tmp_path / "deep" / "silent.mkv", scene(2))
    (tmp_path / "notes.md").write_text("not a video")
    records = open_source(str(tmp_path))
    assert [record.key for record in records] == ["clip00.mp4", "clip01.mp4", "deep/silent.mkv"]
    assert [record.caption() for record in records] == ["scene 0", "scene 1", ""]
    element = load(tmp_path, 1)
    assert element["gt"].shape == (4, 32, 48, 3) and element["lq"].shape == (4, 8, 12, 3)
    assert element["text"] == "scene 1" and element["key"] == "clip01.mp4"


def test_csv_and_jsonl(tmp_path):
    write_folder(tmp_path, 2)
    (tmp_path / "clips.csv").write_text('path,text\nclip01.mp4,"a, quoted caption"\nclip00.mp4,plain\n')
    (tmp_path / "clips.jsonl").write_text('{"path": "clip00.mp4", "text": "one"}\n\n{"path": "clip01.mp4"}\n')
    rows = open_source(str(tmp_path / "clips.csv"))
    assert [(r.key, r.caption()) for r in rows] == [
        ("clip01.mp4", "a, quoted caption"),
        ("clip00.mp4", "plain"),
    ]
    rows = open_source(str(tmp_path / "clips.jsonl"))
    assert [(r.key, r.caption()) for r in rows] == [("clip00.mp4", "one"), ("clip01.mp4", "")]
    assert load(tmp_path / "clips.jsonl")["text"] == "one"


def test_pairs_are_matched_by_name(tmp_path):
    for part in ("gt", "lq", "text"):
        (tmp_path / part).mkdir()
    for index, name in enumerate(["b", "a", "c"]):
        frames = scene(index)
        write_video(tmp_path / "gt" / f"{name}.mp4", frames)
        small = np.stack([cv2.resize(f, (24, 16), interpolation=cv2.INTER_AREA) for f in frames])
        write_video(tmp_path / "lq" / f"{name}.mkv", small)
        (tmp_path / "text" / f"{name}.txt").write_text(f"caption {name}")
    records = open_source(str(tmp_path))
    assert [record.key for record in records] == ["a", "b", "c"]
    for index in range(3):
        element = load(tmp_path, index, height=40, width=48, recipe="heavy")
        assert element["lq"].shape == (4, 10, 12, 3)
        assert element["text"] == f"caption {element['key']}"
        shrunk = np.stack([cv2.resize(f, (12, 10), interpolation=cv2.INTER_AREA) for f in element["gt"]])
        assert np.abs(shrunk.astype(int) - element["lq"]).mean() < 12  # the same frames, crop and flip
    (tmp_path / "lq" / "c.mkv").unlink()
    with pytest.raises(InputError, match=r"only one of gt/ and lq/; .* starting with 'c'"):
        open_source(str(tmp_path))


def test_star_pairs_of_equal_size_keep_that_size(tmp_path):
    (tmp_path / "gt").mkdir()
    (tmp_path / "lq").mkdir()
    write_video(tmp_path / "gt" / "a.mp4", scene(0))
    write_video(tmp_path / "lq" / "a.mp4", scene(0))
    element = load(tmp_path, height=64, width=96)
    assert element["lq"].shape == element["gt"].shape
    assert np.abs(element["lq"].astype(int) - element["gt"]).max() == 0


def test_urls(tmp_path):
    write_folder(tmp_path, 1)
    memory = fsspec.filesystem("memory")
    for name in ("clip00.mp4", "clip00.txt"):
        memory.pipe_file(f"/bucket/{name}", (tmp_path / name).read_bytes())
    memory.pipe_file("/bucket/list.csv", b"path,text\nclip00.mp4,from a bucket\n")
    remote, local = load("memory://bucket"), load(tmp_path)
    np.testing.assert_array_equal(remote["gt"], local["gt"])
    assert remote["text"] == "scene 0"
    assert load("memory://bucket/list.csv")["text"] == "from a bucket"


def test_synthetic_scenes_move_and_repeat(tmp_path):
    video = SyntheticVideo(3, 64, 96, 24)
    frames = video.read(0, 4, 4)
    np.testing.assert_array_equal(frames, SyntheticVideo(3, 64, 96, 24).read(0, 4, 4))
    assert 1 < np.abs(np.diff(frames.astype(int), axis=0)).mean() < 60
    assert (frames != SyntheticVideo(4, 64, 96, 24).read(0, 4, 4)).mean() > 0.5
    assert len(open_source("synthetic:5")) == 5
    photo = np.full((50, 60, 3), (10, 20, 200), np.uint8)
    cv2.imwrite(str(tmp_path / "sky.png"), photo)
    frame = open_source(f"synthetic:2:{tmp_path}", height=64, width=96)[1].video.frame(0)
    assert (np.median(frame, axis=(0, 1)) == (200, 20, 10)).all()


def test_frames_buckets_flips_and_captions_vary_within_their_bounds(tmp_path):
    write_video(tmp_path / "a.mp4", scene(0, 40))
    (tmp_path / "a.txt").write_text("caption")
    record = open_source(str(tmp_path))[0]
    config = DataConfig(str(tmp_path), **{**SMALL, "caption_dropout": 0.5, "height": 32, "width": 32})
    elements = [load_clip(record, config, index) for index in range(40)]
    assert len({element["gt"].tobytes() for element in elements}) > 35
    assert 8 < sum(element["text"] == "" for element in elements) < 32
    again = load_clip(record, config, 7)
    np.testing.assert_array_equal(again["gt"], elements[7]["gt"])


def test_short_videos_lower_the_interval(tmp_path):
    write_video(tmp_path / "a.mp4", scene(0, 5))
    element = load(tmp_path, num_frames=5, frame_interval=8, flip_probability=0.0, height=64, width=96)
    assert np.abs(element["gt"].astype(int) - scene(0, 5)).mean() < 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no data source at"),
        ({}, "has no videos"),
        ({"a.csv": "file,text\n"}, "a clip list needs 'path'"),
        ({"a.jsonl": "nonsense\n"}, "line 1 of .* is not JSON"),
        ({"a.jsonl": '{"text": "x"}\n'}, "is not a JSON object with the key 'path'"),
        ({"a.csv": "path,text\nx.mp4,\nx.mp4,\n"}, "lists 1 paths twice"),
    ],
)
def test_bad_sources_are_named(tmp_path, content, message):
    location = tmp_path / "data"
    if content is not None:
        location.mkdir()
        for name, text in content.items():
            (location / name).write_text(text)
            location = location / name
    with pytest.raises(InputError, match=message):
        open_source(str(location))


def test_bad_settings_are_named():
    with pytest.raises(InputError, match="must be multiples of 4"):
        DataConfig("synthetic", height=30, width=48)
    with pytest.raises(InputError, match=r"data\.num_frames is 0"):
        DataConfig("synthetic", num_frames=0)
    with pytest.raises(InputError, match="must be positive"):
        open_source("synthetic:none")
