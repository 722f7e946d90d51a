"""Runs over several files with a stand-in for the model: batches, scenes, resuming, what is said."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from sample_frames import moving_clip
from sample_videos import cut, moving_frames, packets, write_video
from stand_in_model import StandIn

import star_jax
from star_jax.errors import DiskError, InputError, RunError
from star_jax.files import work_folder_path
from star_jax.inference import upscaler
from star_jax.inference.jobs import Source, find_sources, output_paths
from star_jax.video.reader import VideoReader

WAVES, BLOCK = moving_clip(7, 48, 64), moving_frames(8, 64, 48)


@pytest.fixture
def model(monkeypatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(star_jax.StarPipeline, "from_pretrained", staticmethod(lambda *_, **__: stand_in))
    return stand_in


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_video(tmp_path / "clip.mp4", np.concatenate([WAVES, BLOCK]), audio="aac")


def upscale(inputs, output, **options):
    options = {"progress": "none", "compile_cache": "", "crf": 0, "preset": "ultrafast", "scale": 2} | options
    return star_jax.upscale(inputs, output, **options)


def test_scenes_are_upscaled_as_if_they_were_clips_of_their_own(model, clip, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    frames = VideoReader(clip).read()
    for number, part in enumerate((frames[:7], frames[7:])):
        (folder / str(number)).mkdir()
        for index, frame in enumerate(part):
            cv2.imwrite(str(folder / str(number) / f"{index:02d}.png"), frame[..., ::-1])
    upscale(clip, tmp_path / "out" / "%02d.png")
    assert model.sampled == [7, 8]
    for number in range(2):
        upscale(folder / str(number), tmp_path / f"part{number}" / "%02d.png", scene_cuts="off")
    ours, apart = (images(tmp_path / name) for name in ("out", "part0"))
    np.testing.assert_array_equal(ours, np.concatenate([apart, images(tmp_path / "part1")]))
    upscale(clip, tmp_path / "off" / "%02d.png", scene_cuts="off")
    assert model.sampled[-1] == 15 and np.abs(images(tmp_path / "off") - ours.astype(int)).max() > 10


def test_of_scenes_of_many_lengths_few_are_compiled(model, tmp_path, capsys):
    lengths = [1, 2, 3, 4, 5, 6, 9, 11, 13, 15, 10, 12]
    film = write_video(tmp_path / "film.mp4", moving_frames(sum(lengths), 64, 48), crf=0)
    cuts = tmp_path / "cuts.txt"
    cuts.write_text("\n".join(str(sum(lengths[:number])) for number in range(1, len(lengths))))
    upscale(film, tmp_path / "out" / "%02d.png", scene_cuts=cuts, progress="auto")
    assert model.sampled == [1, 2, 3, 4, 5, 6, 10, 12, 14, 16, 10, 12]
    assert len(images(tmp_path / "out")) == sum(lengths)
    # What is repeated is cut off again: no frame is another scene's.
    first = sum(lengths[:6])
    ours = images(tmp_path / "out")[first : first + 9, ::2, ::2, ::-1].astype(int)
    theirs = VideoReader(film).read(first, 9)
    means = theirs[[*range(9), 8]].mean((0, 1, 2))  # the stand-in mixes in the mean of what it sees
    assert np.abs(ours - (theirs / 2 + means / 2)).max() < 2


@pytest.mark.parametrize(
    ("start", "length"), [("6", "4"), ("0.2s", "0:00.13"), ("0:00.2", "4"), ("12", None)]
)
def test_a_part_has_its_own_frames_and_sound(model, clip, tmp_path, start, length):
    upscale(clip, tmp_path / "out.mkv", start=start, frames=length, scene_cuts="off")
    first, count = (12, 3) if start == "12" else (6, 4)
    whole = VideoReader(clip)
    part = VideoReader(tmp_path / "out.mkv")
    assert part.info.num_frames == count and part.info.start_time == 0
    shown = part.read()[:, ::2, ::2].astype(float)
    expected = [whole.read(first, count) / 2 + whole.read(first, count).mean((0, 1, 2)) / 2]
    assert np.abs(shown - expected).mean() < 4
    sound, kept = packets(clip), packets(tmp_path / "out.mkv")
    begin, end = first / 30, (first + count) / 30
    inside = [data for pts, _, data in sound if begin <= pts / 44100 < end]
    assert [data for _, _, data in kept] == inside and len(inside) > 2
    assert 0 <= kept[0][0] <= 1024 / 44100 * 1000  # Matroska counts milliseconds


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "15"}, "--start is 15, but .* has only 15 frames"),
        ({"start": "soon"}, "--start is 'soon'; give a number of frames, or a time"),
        ({"frames": "0"}, "--frames is 0; choose at least one frame"),
        ({"start": "2.5"}, "give a number of frames, or a time such as 2.5s"),
    ],
)
def test_parts_that_are_none(model, clip, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        upscale(clip, tmp_path / "out.mp4", **options)


def test_cuts_from_a_file_are_of_one_input(model, clip, tmp_path):
    cuts = tmp_path / "cuts.txt"
    cuts.write_text("4\n9\n")
    upscale(clip, tmp_path / "out.mp4", scene_cuts=cuts)
    assert model.sampled == [4, 5, 6]
    with pytest.raises(InputError, match="applies to a single input"):
        upscale([clip, tmp_path / "b.mp4"], tmp_path / "{name}_x2.mp4", scene_cuts=cuts)


@pytest.mark.parametrize("moment", [0, 1, 2, 3, 4, 5])
def test_an_interrupted_run_goes_on_and_gives_the_same_file(model, clip, tmp_path, moment):
    upscale(clip, tmp_path / "whole.mp4")
    model.decoded, model.fails_after = 0, moment
    output = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt) as caught:
        upscale(clip, output)
    assert work_folder_path(output).exists() == bool(moment)
    assert ("resumes from" in str(caught.value)) == bool(moment)
    model.fails_after = np.inf
    upscale(clip, output)
    assert model.decoded == 6  # no piece was made twice
    assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["clip.mp4", "out.mp4", "whole.mp4"]


def test_other_settings_or_no_resume_start_over(model, clip, tmp_path):
    for options in ({"seed": 1}, {"resume": False}, {"crf": 30}):
        model.decoded, model.fails_after = 0, 4
        with pytest.raises(KeyboardInterrupt):
            upscale(clip, tmp_path / "out.mp4")
        model.fails_after, model.sampled = np.inf, []
        upscale(clip, tmp_path / "out.mp4", overwrite=True, **options)
        assert model.sampled == ([8] if "crf" in options else [7, 8])
        assert sorted(os.listdir(tmp_path)) == ["clip.mp4", "out.mp4"]


def test_a_full_disk_keeps_what_is_done_and_other_errors_do_not(model, clip, tmp_path):
    output = tmp_path / "out.mp4"
    for error, is_kept in ((DiskError("full"), True), (RunError("not finite"), False)):
        model.decoded, model.fails_after, model.error = 0, 1, error
        with pytest.raises(RunError):
            upscale(clip, output)
        assert work_folder_path(output).exists() == is_kept


def test_with_little_room_frames_are_not_kept(model, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(upscaler, "_has_room", lambda *_: False)
    model.fails_after = 4
    with pytest.raises(KeyboardInterrupt):
        upscale(clip, tmp_path / "out.mp4", progress="auto")
    assert "the disk has little free space" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_one_failure_does_not_end_a_batch(model, clip, tmp_path, capsys):
    damaged = cut(clip, 0.3, "cut.mp4")
    third = write_video(tmp_path / "third.mp4", WAVES)
    out = tmp_path / "out"
    out.mkdir()
    summary = upscale([clip, damaged, third], out, progress="auto")
    assert sorted(os.listdir(out)) == ["clip.mp4", "third.mp4"] and summary.exit_code == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [str(out / "clip.mp4"), str(out / "third.mp4")]
    assert (
        f"failed: {damaged}: " in captured.err
        and "3 files: 2 done, 0 skipped, 1 failed; 22 frames" in captured.err
    )
    again = upscale([clip, damaged, third], out, skip_existing=True)
    assert [outcome.status for outcome in again.outcomes] == ["skipped", "failed", "skipped"]
    assert again.exit_code == 2 and again.num_frames == 0


def test_a_failure_in_the_middle_is_reported_too(model, clip, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    model.fails_after, model.error = 2, ValueError("a mistake")
    third = write_video(tmp_path / "third.mp4", WAVES[:3])
    summary = upscale([clip, third], out)
    assert summary.failures()[0] == f"failed: {clip}: ValueError: a mistake" and summary.exit_code == 1


def test_folders_of_videos_keep_their_tree(model, tmp_path):
    films = tmp_path / "films"
    (films / "b" / "shots").mkdir(parents=True)
    write_video(films / "one.mp4", WAVES)
    write_video(films / "b" / "one.mkv", WAVES)
    cv2.imwrite(str(films / "b" / "shots" / "0.png"), WAVES[0])
    (films / "b" / ".hidden.mp4").touch()
    found = find_sources([films], recursive=True)
    assert [str(source.path.relative_to(films)) for source in found] == ["b/one.mkv", "b/shots", "one.mp4"]
    assert [source.path.name for source in find_sources([films])] == ["one.mp4"]
    (tmp_path / "out").mkdir()
    upscale(films, tmp_path / "out", recursive=True)
    assert [
        str(path.relative_to(tmp_path / "out")) for path in sorted((tmp_path / "out").rglob("*.mp4"))
    ] == [
        "b/one.mp4",
        "b/shots.mp4",
        "one.mp4",
    ]
    cv2.imwrite(str(films / "still.png"), WAVES[0])
    with pytest.raises(InputError, match="has both videos and images"):
        find_sources([films])


def test_patterns_name_the_outputs(tmp_path):
    sources = [Source(Path("in/a.mp4")), Source(Path("in/b/c.mov"), Path("b"))]
    assert output_paths([Source(Path("a.mp4"))], "{folder}/{folder}{name}.mkv") == [Path("a.mkv")]
    assert output_paths(sources, "out/{folder}/{name}_x4.mkv") == [
        Path("out/a_x4.mkv"),
        Path("out/b/c_x4.mkv"),
    ]
    with pytest.raises(InputError, match="two inputs would both be written to"):
        output_paths([Source(Path("in/a.mp4")), Source(Path("b/a.mp4"))], "out/{name}.mkv")


def test_replacing_a_file_is_said_unless_asked_for(model, clip, tmp_path, capsys):
    output = tmp_path / "out.mp4"
    output.write_bytes(b"the result of yesterday")
    upscale(clip, output)
    assert f"{output} exists and will be replaced" in capsys.readouterr().err
    upscale(clip, output, overwrite=True)
    assert capsys.readouterr() == ("", "")


def test_events_for_programs(model, clip, tmp_path, capsys):
    third = write_video(tmp_path / "third.mp4", WAVES)
    out = tmp_path / "out"
    out.mkdir()
    upscale([clip, tmp_path / "none.mp4", third], out, progress="json")
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert captured.err == ""
    progress = [event for event in events if event["event"] == "progress"]
    assert [event["share"] for event in progress] == sorted(event["share"] for event in progress)
    assert progress[-1]["share"] == 1 and (progress[-1]["file"], progress[-1]["files"]) == (2, 2)
    assert {"read", "encode", "sample", "decode"} == {event["stage"] for event in progress}
    ends = [event for event in events if event["event"] != "progress"]
    assert [event["event"] for event in ends] == ["done", "failed", "done", "summary"]
    assert ends[0]["output"] == str(out / "clip.mp4") and "no such file" in ends[1]["reason"]
    assert (ends[3]["done"], ends[3]["failed"], ends[3]["num_frames"]) == (2, 1, 22)
    with pytest.raises(InputError, match="progress is 'xml'; choose one of auto, json, none"):
        upscale(clip, tmp_path / "out.mp4", progress="xml")


def images(folder: Path) -> np.ndarray:
    return np.stack([cv2.imread(str(path)) for path in sorted(folder.iterdir())])
