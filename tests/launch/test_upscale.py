"""star-jax upscale, as a user runs it: files in, files out, and one line for each mistake."""

import copy
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from sample_frames import moving_clip
from sample_videos import NTSC_FILM, packets, write_sound, write_video

from star_jax.checkpoints.directory import save_component
from star_jax.errors import InputError
from star_jax.files import work_folder_path
from star_jax.inference.display import RunProgress
from star_jax.inference.jobs import find_sources, is_there, output_paths, settings_for
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.launch.cli import main
from star_jax.models.architectures import build_model
from star_jax.presets import BUNDLED, get_preset
from star_jax.video.reader import VideoReader

# The settings and the size of sample_frames.LONG, so that test_pipeline's compiled programs serve here too.
LONG = ["--steps", "1", "--guidance", "1", "--window", "4"]
LONG_SETTINGS = {"num_inference_steps": 1, "guidance_scale": 1.0, "window": 4}


@pytest.fixture(autouse=True)
def shared_programs(monkeypatch, tiny_checkpoint, tiny_pipeline):
    """Checkpoints are loaded as ever, but all run in the compiled programs of one pipeline."""
    load = StarPipeline.from_pretrained

    def load_and_share(directory, **options) -> StarPipeline:
        if Path(directory) == tiny_checkpoint:
            return tiny_pipeline
        pipeline = copy.copy(tiny_pipeline)
        pipeline.params = load(directory, **options).params
        return pipeline

    monkeypatch.setattr(StarPipeline, "from_pretrained", staticmethod(load_and_share))


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_video(tmp_path / "clip.mp4", moving_clip(6), rate=NTSC_FILM, audio="aac")


@pytest.fixture
def upscale(tiny_checkpoint):
    """Runs the command in this process."""

    def run(*arguments, checkpoint=tiny_checkpoint) -> int:
        common = ["--checkpoint", str(checkpoint), "--compile-cache", "", *LONG]
        return main(["upscale", *common, *map(str, arguments)])

    return run


@pytest.fixture
def refused(tmp_path, capfd, upscale):
    """Runs the command, which must fail in one line and leave everything as it was; returns the line."""

    def run(*arguments, code: int = 2, **options) -> str:
        before = contents(tmp_path)
        assert upscale("--quiet", *arguments, **options) == code
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("star-jax upscale: "), err
        assert contents(tmp_path) == before
        return err

    return run


def contents(folder: Path) -> dict[Path, int | None]:
    """Every path below, with the time of its last change."""
    return {path: path.stat().st_mtime_ns if path.is_file() else None for path in folder.rglob("*")}


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
        ("one.png", "new.png", "large.png", "an output that is a video file"),
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
    assert f"{out / 'clip.mp4'} is there: {clip} is skipped" in capfd.readouterr().err
    assert (out / "clip.mp4").read_bytes() == b"the result of yesterday"
    assert VideoReader(out / "other.mp4").info.num_frames == 6
    assert not is_there(out / "100%.mp4") and is_there(out / "%05d.png")
    written = (out / "other.mp4").stat().st_mtime_ns
    assert upscale(clip, other, "-o", out, "--skip-existing", "--quiet") == 0
    assert (out / "other.mp4").stat().st_mtime_ns == written


def no_frames(path: Path) -> Path:
    """A whole file with a video stream and nothing in it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 16, 20, "yuv420p"
        container.start_encoding()
    return path


def test_bad_inputs(tmp_path, refused):
    (tmp_path / "text.mp4").write_text("this is no video\n" * 40)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    for path, words in {
        tmp_path / "missing.mp4": "no such file: {}; check the path",
        tmp_path / "text.mp4": "cannot open {} as a video: it is damaged, cut off, or no video; give",
        tmp_path / "empty.mp4": "{} is empty (0 bytes); copy or download it again",
        tmp_path / "folder": "{} is a folder without images; expected .avif, .bmp",
        no_frames(tmp_path / "nothing.avi"): "{} has no frames; give a video that plays",
        write_sound(tmp_path / "sound.m4a"): "{} has no video stream (it has audio); give",
    }.items():
        assert words.format(path) in refused(path, "-o", tmp_path / "out.mp4")


def test_no_permission_to_read(clip, tmp_path, refused, monkeypatch):
    """Permissions do not bind root, so the operating system's refusal is simulated where the file is opened."""
    open_path = Path.open

    def refuse(self, *args, **kwargs):
        if self == clip:
            raise PermissionError(13, "Permission denied", str(self))
        return open_path(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert "no permission to read" in (line := refused(clip, "-o", tmp_path / "out.mp4"))
    assert "change its permissions (chmod +r)" in line


def test_bad_outputs(clip, tmp_path, refused):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    for output, words in {
        tmp_path / "none" / "out.mp4": "does not exist; create it with: mkdir -p",
        clip: "is the input itself; choose another output name",
        tmp_path: "is the input itself; choose another output name",  # a folder gets clip.mp4
        tmp_path / "out.avi": "has the extension .avi; expected .mp4",
        tmp_path / "out": "has the extension (none); expected .mp4",
        tmp_path / "out.png": "is one image for 6 frames; write to",
        tmp_path / "full" / "%05d.png": "is not empty; give a new folder",
    }.items():
        assert words in refused(clip, "-o", output)
    assert "there are 2 inputs; create the folder first" in refused(clip, clip, "-o", tmp_path / "both.mp4")
    assert "two inputs have the same name" in refused(clip, clip, "-o", tmp_path / "full")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scale", "0.5"], "scale is 0.5; choose a number of at least 1"),
        (["--scale", "inf"], "scale is inf; choose"),
        (["--steps", "0"], "num_inference_steps is 0; choose"),
        (["--steps", "5000"], "num_inference_steps is 5000; choose at most 1000"),
        (["--frame-rate", "25"], "--frame-rate applies to folders of images"),
        (["--guidance", "-1"], "guidance_scale is -1.0; choose"),
        (["--strength", "1.5"], "strength is 1.5; choose 0 (the input, enlarged) to 1"),
        (["--resolution", "0"], "--resolution is 0; choose pixels"),
        (["--window", "1"], "window is 1; choose a number of at least 2"),
        (["--seed", "18446744073709551616"], "choose at most 4294967295"),
        (["--color-fix", "teal"], "color_fix is 'teal'; choose one of adain, wavelet, none"),
        (["--solver", "ddim"], "solver is 'ddim'; choose one of dpmpp_2m_sde, heun"),
        (["--padding", "black"], "padding is 'black'; choose one of fit, original"),
        (["--spacing", "fast", "--steps", "20"], "always takes 15; choose spacing 'normal'"),
        (["--crf", "60"], "--crf is 60.0; choose 0 (lossless) to 51"),
        (["--compile-cache", os.devnull], "choose another --compile-cache, or ''"),
    ],
)
def test_bad_settings(clip, tmp_path, refused, arguments, words):
    assert words in refused(clip, "-o", tmp_path / "out.mp4", *arguments)


def test_directories_that_are_no_checkpoint(clip, tmp_path, refused, tiny_checkpoint, capfd):
    arguments = (clip, "-o", tmp_path / "out.mp4")
    remedy = "make one with star-jax convert SRC... DST"
    assert f"does not exist; {remedy}" in refused(*arguments, checkpoint=tmp_path / "none")
    (tmp_path / "plain").mkdir()
    assert f"(it has no config.json); {remedy}" in refused(*arguments, checkpoint=tmp_path / "plain")

    made = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, made)
    config = (made / "config.json").read_text()
    (made / "config.json").write_text(config[:100])
    assert "config.json is not a star_jax model configuration" in refused(*arguments, checkpoint=made)
    (made / "config.json").write_text(config)
    largest = max((made / "unet").rglob("*"), key=lambda file: file.is_file() and file.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    assert "copy the checkpoint again" in refused(*arguments, checkpoint=made)
    shutil.rmtree(made / "unet")
    assert main(["inspect", str(made)]) == 0
    assert "missing: unet; it cannot upscale" in capfd.readouterr().out
    assert f"{made} has no unet; convert it again" in refused(*arguments, checkpoint=made)


def test_a_checkpoint_of_another_preset(clip, tmp_path, refused, tiny_checkpoint):
    """The sizes of one preset above the arrays of another."""
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    config = json.loads((other / "config.json").read_text())
    config["unet"]["block_out_channels"] = [32, 64, 64, 64]
    (other / "config.json").write_text(json.dumps(config))
    line = refused(clip, "-o", tmp_path / "out.mp4", checkpoint=other)
    assert f"unet of {other}: " in line and ", the network has (" in line
    assert "use the preset it was made for, or convert it again" in line


def test_weights_that_are_not_finite(clip, tmp_path, refused, tiny_checkpoint, tiny_pipeline):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    shutil.rmtree(broken / "unet")
    unet = tiny_pipeline.params["unet"]
    conv_out = {**unet["conv_out"], "kernel": np.full_like(unet["conv_out"]["kernel"], np.nan)}
    save_component(broken, "unet", {**unet, "conv_out": conv_out})
    line = refused(clip, "-o", tmp_path / "out.mp4", checkpoint=broken, code=1)
    assert "sampling produced numbers that are not finite; try --dtype float32" in line


@pytest.mark.parametrize(
    "options", [["--prompt", "a panda"], ["--negative-prompt", "blurry"], ["--guidance", "7.5"]]
)
def test_text_options_for_a_model_without_text_encoder(clip, tmp_path, refused, options):
    line = refused(clip, "-o", tmp_path / "out.mp4", *options, checkpoint=BUNDLED)
    assert f"reads no text; leave out {options[0]}" in line


def test_a_prompt_for_a_pipeline_without_text_encoder():
    config = dataclasses.replace(get_preset("tiny"), preset="tiny-null", text_encoder=None)
    with pytest.raises(InputError, match="preset 'tiny-null' has no text encoder; leave it out"):
        StarPipeline(build_model(config), {}, None)(np.zeros((1, 16, 16, 3), np.uint8), "a panda")


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
from star_jax.launch.cli import main

hits = []
jax.monitoring.register_event_listener(lambda event, **_: event.endswith("/cache_hits") and hits.append(event))
code = main(sys.argv[1:])
print(len(hits))
sys.exit(code)
"""


def test_a_second_process_takes_its_programs_from_the_compile_cache(tmp_path, tiny_checkpoint):
    clip, cache = write_video(tmp_path / "one.mp4", moving_clip(1)), tmp_path / "cache"
    arguments = ["upscale", str(clip), "--checkpoint", str(tiny_checkpoint), *LONG, "--quiet"]

    def hits(output: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", COUNT_HITS, *arguments, "-o", tmp_path / output, "--compile-cache", cache],
            capture_output=True,
            text=True,
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
