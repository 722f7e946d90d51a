"""star-jax upscale: one line for each mistake, and nothing changed."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from sample_videos import write_sound

from star_jax.checkpoints.directory import save_component
from star_jax.errors import InputError
from star_jax.inference.pipeline import StarPipeline
from star_jax.launch.cli import main
from star_jax.models.architectures import build_model
from star_jax.presets import BUNDLED, get_preset

pytestmark = pytest.mark.usefixtures("shared_programs")


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
        tmp_path / "text.mp4": "cannot open {} as a video: it is damaged, cut off or not a video; give",
        tmp_path / "empty.mp4": "{} is empty (0 bytes); copy or download it again",
        tmp_path / "folder": "{} is a folder without images; give one with .avif, .bmp",
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
        tmp_path / "out.avi": "has the extension .avi; choose .mp4",
        tmp_path / "out": "has the extension (none); choose .mp4",
        tmp_path / "out.png": "can hold only one of 6 frames; write to",
        tmp_path / "full" / "%05d.png": "is not empty; give a new folder",
    }.items():
        assert words in refused(clip, "-o", output)
    assert "there are 2 inputs; create the folder first" in refused(clip, clip, "-o", tmp_path / "both.mp4")
    assert "two inputs would both be written to" in refused(clip, clip, "-o", tmp_path / "full")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scale", "0.5"], "scale is 0.5; choose a number of at least 1"),
        (["--scale", "inf"], "scale is inf; choose"),
        (["--steps", "0"], "num_inference_steps is 0; choose"),
        (["--steps", "5000"], "num_inference_steps is 5000; choose at most 1000"),
        (["--frame-rate", "25"], "--frame-rate applies to folders of images"),
        (["--guidance", "-1"], "guidance_scale is -1.0; choose"),
        (["--strength", "1.5"], "strength is 1.5; choose 0 (the enlarged input) to 1"),
        (["--resolution", "0"], "--resolution is 0; choose the pixels"),
        (["--window", "1"], "window is 1; choose a number of at least 2"),
        (["--seed", "18446744073709551616"], "choose at most 4294967295"),
        (["--color-fix", "teal"], "color_fix is 'teal'; choose one of adain, wavelet, flat-wavelet, none"),
        (["--color-source", "truth"], "there is no ground truth; give it with --compare"),
        (["--color-source", "neither"], "--color-source is 'neither'; choose input or truth"),
        (["--solver", "ddim"], "solver is 'ddim'; choose one of dpmpp_2m_sde, heun"),
        (["--padding", "black"], "padding is 'black'; choose one of fit, original"),
        (["--spacing", "fast", "--steps", "20"], "always has 15 steps; choose spacing 'normal'"),
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
    for name, words in (
        (
            "star-cogvideox-5b",
            "star-jax convert mp_rank_00_model_states.pt vae text_encoder tokenizer star-cog",
        ),
        ("cogvideox-2b", "star-jax convert transformer vae text_encoder tokenizer cogvideox-2b --lora 512"),
        ("tiny-cogvideox", "star-jax convert random:tiny-cogvideox tiny-cogvideox"),
    ):
        assert words in refused(*arguments, checkpoint=tmp_path / name)
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
    assert "copy or convert the checkpoint again" in refused(*arguments, checkpoint=made)
    shutil.rmtree(made / "unet")
    assert main(["inspect", str(made)]) == 0
    assert "missing: unet; upscaling needs all components" in capfd.readouterr().out
    assert f"{made} has no unet; convert it again" in refused(*arguments, checkpoint=made)


def test_a_checkpoint_of_another_preset(clip, tmp_path, refused, tiny_checkpoint):
    """The sizes of one preset above the arrays of another."""
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    config = json.loads((other / "config.json").read_text())
    config["unet"]["block_out_channels"] = [32, 64]
    (other / "config.json").write_text(json.dumps(config))
    line = refused(clip, "-o", tmp_path / "out.mp4", checkpoint=other)
    assert f"unet of {other}: " in line and ", but the network has (" in line
    assert "use the preset that it was made for, or convert it again" in line


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
