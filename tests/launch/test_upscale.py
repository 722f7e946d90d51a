"""star-jax upscale, as a user runs it: files in, files out, and nothing half-written."""

import os
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from one_level import ONE_LEVEL
from sample_frames import moving_clip
from sample_videos import NTSC_FILM, moving_frames, packets, write_video

import star_jax
from star_jax.files import work_folder_path
from star_jax.inference.display import RunProgress
from star_jax.inference.jobs import find_sources, is_there, output_paths, settings_for
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.init.random_checkpoint import random_checkpoint
from star_jax.video.reader import VideoReader

# The settings of the fixture `upscale`.
LONG_SETTINGS = {"num_inference_steps": 1, "guidance_scale": 1.0, "window": 4}

pytestmark = pytest.mark.usefixtures("shared_programs")


def test_video_keeps_rate_count_and_sound(clip, tmp_path, upscale, capfd):
    output = tmp_path / "out.mp4"
    assert upscale(clip, "-o", output) == 0
    info = VideoReader(output).info
    assert (info.width, info.height, info.num_frames, info.frame_rate) == (64, 80, 6, NTSC_FILM)
    assert len(packets(clip)) > 5 and packets(output) == packets(clip)
    out, err = capfd.readouterr()
    assert out == f"{output}\n"
    assert f"{clip}: 6 frames, 16x20 to 64x80" in err
    assert all(f"{stage}: 100%" in err for stage in ("Encoding", "Sampling", "Decoding"))
    assert sorted(os.listdir(tmp_path)) == ["clip.mp4", "out.mp4"]


def test_files_give_what_arrays_give(clip, tmp_path, upscale, tiny_pipeline, capfd):
    """Exactly as PNG images; as lossless H.264 up to the rounding and the halved chroma of yuv420p."""
    expected = tiny_pipeline(VideoReader(clip).read(), "a panda", seed=3, **LONG_SETTINGS)
    options = ["--prompt", "a panda", "--seed", "3", "--quiet"]
    assert upscale(clip, "-o", tmp_path / "images" / "%03d.png", *options) == 0
    files = sorted((tmp_path / "images").iterdir())
    assert [file.name for file in files] == [f"{i:03d}.png" for i in range(6)]
    images = np.stack([cv2.imread(str(file))[..., ::-1] for file in files])
    np.testing.assert_array_equal(images, expected)

    assert upscale(clip, "-o", tmp_path / "out.mkv", "--crf", "0", "--preset", "ultrafast", *options) == 0
    luma = np.array([0.2126, 0.7152, 0.0722])
    decoded = VideoReader(tmp_path / "out.mkv").read()
    assert np.abs(decoded @ luma - expected @ luma).mean() < 2
    assert capfd.readouterr() == ("", "")


def test_colours_of_the_ground_truth(clip, tmp_path, tiny_checkpoint, monkeypatch):
    """Its frames are read beside the part that is upscaled: a stand-in for the model gives them as they are."""

    def stream(self, read, num_frames, size, settings, *, read_colors, **options):
        del self, num_frames, size, settings, options
        for piece, colors in zip(read(2), read_colors(2), strict=True):
            assert len(piece) == len(colors)
            yield colors

    monkeypatch.setattr(StarPipeline, "stream", stream)
    greys = np.array([40, 90, 140, 200])
    truth = np.broadcast_to(greys[:, None, None, None], (4, 80, 64, 3)).astype(np.uint8)
    write_video(tmp_path / "truth.mkv", truth)
    common = {"checkpoint": tiny_checkpoint, "compile_cache": "", "progress": "none"}
    colors = {"truth": tmp_path / "truth.mkv", "color_source": "truth"}
    star_jax.upscale(clip, tmp_path / "out.mkv", start="2", **colors, **common)
    np.testing.assert_allclose(VideoReader(tmp_path / "out.mkv").read().mean((1, 2, 3)), greys, atol=3)


def test_several_inputs_go_into_a_folder(clip, tmp_path, upscale):
    other = write_video(tmp_path / "other.mkv", moving_clip(6)[::-1])
    (tmp_path / "out").mkdir()
    assert upscale(clip, other, "-o", tmp_path / "out", "--quiet") == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["clip.mp4", "other.mp4"]
    assert VideoReader(tmp_path / "out" / "other.mp4").info.num_frames == 6


def test_images_become_images_or_a_video_of_the_rate_asked_for(tmp_path, upscale):
    folder, out = tmp_path / "shot.1", tmp_path / "out"
    for path in (folder, out):
        path.mkdir()
    for number, frame in enumerate(moving_clip(6)):
        cv2.imwrite(str(folder / f"{number}.png"), frame)
    single = shutil.copy(folder / "0.png", tmp_path / "single.png")
    assert upscale(folder, "-o", out, "--frame-rate", "30000/1001", "--quiet") == 0
    info = VideoReader(out / "shot.1.mp4").info
    assert (info.num_frames, info.frame_rate) == (6, Fraction(30000, 1001))
    assert output_paths(find_sources([single, folder]), str(out)) == [out / "single.png", out / "shot.1.mp4"]


@pytest.mark.parametrize(
    ("source", "output", "truth", "words"),
    [
        ("clip.mp4", "truth.mp4", "truth.mp4", "truth.mp4 is the input itself or lies in it"),
        ("one.png", "one.mp4", "large.png", "one.png is the input itself or lies in it"),
        ("shots", "shots/0.mp4", "truth.mp4", "0.mp4 is the input itself or lies in it"),
        ("one.png", "new.png", "large.png", "a video file as output"),
    ],
)
def test_what_is_read_is_not_replaced(clip, tmp_path, refused, source, output, truth, words):
    large = np.repeat(np.repeat(moving_clip(6), 4, axis=1), 4, axis=2)
    write_video(tmp_path / "truth.mp4", large)
    cv2.imwrite(str(tmp_path / "one.png"), moving_clip(1)[0])
    cv2.imwrite(str(tmp_path / "large.png"), large[0])
    (tmp_path / "shots").mkdir()
    for number, frame in enumerate(moving_clip(6)):
        cv2.imwrite(str(tmp_path / "shots" / f"{number}.png"), frame)
    arguments = (tmp_path / source, "-o", tmp_path / output, "--compare", tmp_path / truth)
    assert words in refused(*arguments)


def test_parts_are_not_compared(clip, tmp_path, refused):
    truth = write_video(tmp_path / "truth.mp4", np.zeros((4, 320, 256, 3), np.uint8))
    for part in (["--start", "2"], ["--frames", "4"]):
        assert "leave out --start and --frames" in refused(
            clip, "-o", tmp_path / "out.mp4", "--compare", truth, *part
        )


@pytest.mark.parametrize(("resolution", "height", "width"), [(120, 150, 120), (64, 80, 64), (8, 20, 16)])
def test_the_shorter_side_decides_the_scale(clip, resolution, height, width):
    info = VideoReader(clip).info
    settings = settings_for(info, UpscaleSettings(), resolution)
    assert settings.target_size(info.height, info.width) == (height, width)


def test_an_interrupted_batch_goes_on(clip, tmp_path, upscale, capfd):
    other, out = write_video(tmp_path / "other.mp4", moving_clip(6)), tmp_path / "out"
    out.mkdir()
    (out / "clip.mp4").write_bytes(b"the result of yesterday")
    assert upscale(clip, other, "-o", out, "--skip-existing") == 0
    assert f"skipped: {clip}: {out / 'clip.mp4'} exists" in capfd.readouterr().err
    assert (out / "clip.mp4").read_bytes() == b"the result of yesterday"
    assert VideoReader(out / "other.mp4").info.num_frames == 6
    assert not is_there(out / "100%.mp4") and is_there(out / "%05d.png")
    written = (out / "other.mp4").stat().st_mtime_ns
    assert upscale(clip, other, "-o", out, "--skip-existing", "--quiet") == 0
    assert (out / "other.mp4").stat().st_mtime_ns == written


@pytest.mark.parametrize("stage", ["encode", "sample", "decode"])
@pytest.mark.parametrize("name", ["out.mp4", "images/%05d.png"])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_nothing_but_what_the_next_run_goes_on_from(
    clip, tmp_path, upscale, monkeypatch, capfd, stage, name, sent
):
    show = RunProgress.advance

    def interrupt(self, at, frames) -> None:
        show(self, at, frames)
        if at == stage:
            signal.raise_signal(sent)

    monkeypatch.setattr(RunProgress, "advance", interrupt)
    assert upscale("--quiet", clip, "-o", tmp_path / name) == 130
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("star-jax upscale: interrupted; nothing was left half-written")
    assert err.count("\n") == 1
    kept = work_folder_path(tmp_path / name.partition("/")[0])
    assert set(tmp_path.iterdir()) <= {clip, kept}
    assert not list(kept.glob("draft.*")) and not list(kept.glob("*.tmp"))


def test_a_failure_keeps_the_file_of_an_earlier_run(clip, tmp_path, refused, monkeypatch):
    output = tmp_path / "out.mp4"
    output.write_bytes(b"the result of yesterday")

    def interrupt(self, stage, frames) -> None:
        if stage == "decode":
            raise KeyboardInterrupt

    monkeypatch.setattr(RunProgress, "advance", interrupt)
    refused(clip, "-o", output, "--no-resume", "--overwrite", code=130)
    assert output.read_bytes() == b"the result of yesterday"


COUNT_HITS = """
import sys
import jax
import one_level
from star_jax.inference import compile_cache
from star_jax.launch.cli import main

compile_cache._SHORTEST_SECONDS = 0
hits = []
jax.monitoring.register_event_listener(lambda event, **_: event.endswith("/cache_hits") and hits.append(event))
code = main(sys.argv[1:])
print(len(hits))
sys.exit(code)
"""


def test_a_second_process_takes_its_programs_from_the_compile_cache(tmp_path, few_steps):
    clip, cache = write_video(tmp_path / "one.mp4", moving_frames(1, 8, 6)), tmp_path / "cache"
    random_checkpoint(tmp_path / "checkpoint", ONE_LEVEL)
    arguments = ["upscale", str(clip), "--checkpoint", str(tmp_path / "checkpoint"), *few_steps, "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

    def hits(output: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", COUNT_HITS, *arguments, "-o", tmp_path / output, "--compile-cache", cache],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert hits("first.mp4") == 0
    programs = list(cache.glob("*-cache"))
    assert hits("second.mp4") >= len(programs) >= 2
    assert (tmp_path / "first.mp4").read_bytes() == (tmp_path / "second.mp4").read_bytes()


def test_help_does_not_wait_for_jax():
    code = """
import contextlib, sys
from star_jax.launch.cli import main

for arguments in (["--help"], ["upscale", "--help"]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
heavy = {"jax", "flax", "orbax", "torch", "tensorflow", "av", "cv2", "transformers"} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "star-jax upscale clip.mp4 -o clip_x4.mp4 --checkpoint DIR" in done.stdout
