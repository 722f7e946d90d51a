"""star-jax degrade, prepare and benchmark data, as a user runs them."""

import json
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from sample_videos import moving_frames, packets, shown, sound_times, write_video

from star_jax.data.degradations import RECIPES
from star_jax.data.made_up.synthetic import SyntheticVideo
from star_jax.launch.cli import main
from star_jax.video.reader import VideoReader


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4", 0)


def write_clip(path, index, height=66, width=98):
    frames = SyntheticVideo(index, height, width, 12).read(0, 12, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_degrade_writes_a_quarter_of_the_size(clip, tmp_path, capsys):
    output = tmp_path / "low.mp4"
    assert main(["degrade", str(clip), "-o", str(output), "--recipe", "heavy", "--seed", "1"]) == 0
    assert "12 frames of 24x16, heavy, seed 1" in capsys.readouterr().out
    first = VideoReader(output)
    assert (first.info.num_frames, first.info.height, first.info.width) == (12, 16, 24)
    again, other = tmp_path / "again.mp4", tmp_path / "other.mp4"
    main(["degrade", str(clip), "-o", str(again), "--recipe", "heavy", "--seed", "1"])
    main(["degrade", str(clip), "-o", str(other), "--recipe", "heavy", "--seed", "2"])
    np.testing.assert_array_equal(first.read(), VideoReader(again).read())
    assert (first.read() != VideoReader(other).read()).any()


def test_degrade_compares_side_by_side(clip, tmp_path):
    output = tmp_path / "both.mp4"
    assert main(["degrade", str(clip), "-o", str(output), "--compare", "--start", "2", "--frames", "5"]) == 0
    info = VideoReader(output).info
    assert (info.num_frames, info.height, info.width) == (5, 64, 192)


def test_degrade_draws_a_contact_sheet(clip, tmp_path):
    output = tmp_path / "sheet.png"
    assert main(["degrade", str(clip), "-o", str(output)]) == 0
    sheet = cv2.imread(str(output))
    assert sheet.shape == ((1 + len(RECIPES)) * 16, 150 + 4 * 24, 3)
    assert main(["degrade", str(clip), "-o", str(tmp_path / "no" / "sheet.png")]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "strong"], "no degradation recipe 'strong'; choose one of realbasicvsr"),
        (["--start", "12"], "--start is 12, but"),
        (["--scale", "100"], "too small for --scale 100"),
        (["--seed", "-1"], "must not be negative"),
    ],
)
def test_degrade_names_mistakes(clip, tmp_path, capsys, arguments, message):
    output = tmp_path / "low.mp4"
    assert main(["degrade", str(clip), "-o", str(output), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_degrade_keeps_its_input(clip, capsys):
    content = clip.read_bytes()
    assert main(["degrade", str(clip), "-o", str(clip)]) == 2
    assert "is the input itself" in capsys.readouterr().err
    assert clip.read_bytes() == content


@pytest.mark.parametrize(
    ("output", "truth", "message"),
    [
        ("low.mp4", "no/truth.mp4", "create it with"),
        ("low.mp4", "low.mp4", "would be written twice"),
        ("low/%05d.png", "low/truth%d.png", "would be written twice"),
        ("low.mp4", "truth.png", "is a single image; give a video, or"),
    ],
)
def test_degrade_checks_both_outputs_first(clip, tmp_path, capsys, output, truth, message):
    arguments = ["-o", str(tmp_path / output), "--truth", str(tmp_path / truth)]
    assert main(["degrade", str(clip), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [clip]


def test_a_contact_sheet_does_not_replace_an_input_image(clip, tmp_path, capsys):
    assert main(["degrade", str(clip), "-o", str(tmp_path / "low" / "%d.png")]) == 0
    content = (tmp_path / "low" / "3.png").read_bytes()
    assert main(["degrade", str(tmp_path / "low"), "-o", str(tmp_path / "low" / "3.png")]) == 2
    assert "is the input itself or lies in it" in capsys.readouterr().err
    assert (tmp_path / "low" / "3.png").read_bytes() == content


def test_degrade_reads_a_folder_of_images(clip, tmp_path):
    low, lower = tmp_path / "low", tmp_path / "lower"
    assert main(["degrade", str(clip), "-o", str(low / "%05d.png"), "--frames", "3"]) == 0
    assert main(["degrade", str(low), "-o", str(lower / "%05d.png"), "--scale", "2"]) == 0
    assert [cv2.imread(str(path)).shape for path in sorted(lower.iterdir())] == 3 * [(8, 12, 3)]


def test_prepare_with_two_jobs_and_again(tmp_path, capsys):
    videos, output = tmp_path / "videos", tmp_path / "dataset"
    videos.mkdir()
    for index in range(6):
        write_clip(videos / f"{index}.mp4", index)
    (videos / "broken.mp4").write_bytes(b"nothing")
    command = ["prepare", str(videos), "-o", str(output), "--size", "32x48", "--frames", "3", "--quiet"]
    command += ["--clips-per-shard", "2", "--validation-share", "0.3", "--max-bad-share", "0.5"]
    assert main([*command, "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    assert "of 7 videos; 1 left out" in out
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["skipped"][0]["key"] == "broken.mp4"
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*array_record*")}
    assert main(command) == 0
    assert times == {path: path.stat().st_mtime_ns for path in output.rglob("*array_record*")}
    capsys.readouterr()
    measure = ["benchmark", "data", "--source", str(output), "--size", "32x48", "--frames", "3", "--json"]
    assert main(measure) == 0
    assert set(json.loads(capsys.readouterr().out)["stages"]) == {"decode", "batch", "other"}
    assert main([*command, "--seed", "3"]) == 2
    assert "begun with other settings (seed)" in capsys.readouterr().err
    assert main([*command, "--process", "2/2"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runner=FlinkRunner"], "unknown argument '--runner=FlinkRunner'"),
        (["--beam", "--process", "1/2"], "--process is 1/2, but with --beam the runner distributes the work"),
        (["--beam"], r"--beam needs Apache Beam"),
    ],
)
def test_prepare_says_what_beam_needs(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "star_jax.data.prepare.on_beam", raising=False)
    assert main(["prepare", "synthetic:2", "-o", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_benchmark_data_reports_every_stage(tmp_path, capsys):
    command = ["benchmark", "data", "--size", "64x96", "--frames", "3", "--clips", "3"]
    command += ["--json", str(tmp_path / "data.json")]
    assert main([*command, "--batch-size", "4", "--step-seconds", "0.001"]) == 0
    assert "cores needed for one accelerator" in capsys.readouterr().out
    report = json.loads((tmp_path / "data.json").read_text())
    assert {"decode", "resize and crop", "round 1: blur", "round 1: codec", "round 2: noise", "batch"} <= set(
        report["stages"]
    )
    assert sum(report["stages"].values()) == pytest.approx(report["seconds_per_frame"])
    assert report["cores_per_accelerator"] == int(np.ceil(12 * report["seconds_per_frame"] / 0.001))
    assert report["element_bytes"] == 3 * 64 * 96 * 3 * 17 // 16
    assert report["command"].startswith("star-jax") and report["hardware"]["cores"] >= 1
    assert report["versions"]["numpy"] and report["peak_host_bytes"] > 0


def test_benchmark_data_prints_a_table(capsys):
    assert (
        main(["benchmark", "data", "--size", "64x96", "--frames", "2", "--clips", "1", "--recipe", "none"])
        == 0
    )
    out = capsys.readouterr().out
    assert "decode" in out and "cores needed for one accelerator" in out
    assert main(["benchmark", "data", "--size", "720p"]) == 2
    assert "write HEIGHTxWIDTH" in capsys.readouterr().err


def test_degrade_keeps_times_sound_and_the_shape_of_pixels(tmp_path):
    """A part of a clip of variable rate, with sound and pixels that are not square."""
    times = [0, 40, 80, 200, 240, 320, 360, 400, 440, 480]
    clip = write_video(
        tmp_path / "clip.mp4",
        moving_frames(10),
        pts=times,
        time_base=Fraction(1, 1000),
        audio="aac",
        sample_aspect_ratio=Fraction(4, 3),
    )
    low = tmp_path / "low.mp4"
    command = ["degrade", str(clip), "-o", str(low), "--recipe", "none", "--start", "2", "--frames", "5"]
    assert main(command) == 0
    info = VideoReader(low).info
    assert (info.num_frames, info.sample_aspect_ratio) == (5, Fraction(4, 3))
    assert [time for time, _ in shown(low)] == [0, 0.12, 0.16, 0.24, 0.28]
    start, end = 0.08, 0.4
    expected = [
        (time - start, data)
        for time, (*_, data) in zip(sound_times(clip), packets(clip), strict=True)
        if start <= time < end
    ]
    assert [data for *_, data in packets(low)] == [data for _, data in expected]
    assert sound_times(low) == pytest.approx([time for time, _ in expected], abs=1e-3)


def test_degrade_says_that_deep_colours_become_eight_bits(tmp_path, capsys):
    clip = write_video(tmp_path / "deep.mp4", moving_frames(4), pix_fmt="yuv420p10le")
    assert main(["degrade", str(clip), "-o", str(tmp_path / "low.mp4"), "--recipe", "none"]) == 0
    assert "recipes work with 8 bits, so 10 bits become 8" in capsys.readouterr().err
    assert VideoReader(tmp_path / "low.mp4").info.bit_depth == 8
