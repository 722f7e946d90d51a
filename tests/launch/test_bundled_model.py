"""The model in the package: the README's command on the sample clip, and what it gains over interpolation."""

from pathlib import Path

import cv2
import pytest

from star_jax.checkpoints.directory import checkpoint_path, read_config
from star_jax.evaluation.evaluate import evaluate
from star_jax.inference.settings import UpscaleSettings
from star_jax.launch.cli import main
from star_jax.models.architectures import build_model
from star_jax.presets import BUNDLED, get_preset

ASSETS = Path(__file__).parents[2] / "assets"


@pytest.fixture(scope="module")
def upscaled(tmp_path_factory):
    """A video, and a picture beside it."""
    output = tmp_path_factory.mktemp("demo") / "sample_x4.mp4"
    truth = str(ASSETS / "sample_truth.mp4")
    arguments = ["-o", str(output), "--compare", truth, "--compile-cache", "", "--quiet"]
    assert main(["upscale", str(ASSETS / "sample.mp4"), *arguments]) == 0
    return output


def test_it_beats_interpolation(upscaled):
    report = evaluate(upscaled, ASSETS / "sample_truth.mp4", input=ASSETS / "sample.mp4")
    result, enlarged = report.means(upscaled.stem), report.means("bicubic")
    assert result["psnr"] > enlarged["psnr"] + 1.5
    assert result["ssim"] > enlarged["ssim"] + 0.09
    assert result["flicker"] < 0.6 * enlarged["flicker"]


def test_a_picture_compares_it(upscaled):
    assert cv2.imread(str(upscaled.with_suffix(".png"))).shape[1] > 3 * 288


def test_its_light_decoder_is_what_people_get():
    assert UpscaleSettings().light_fidelity(build_model(read_config(BUNDLED))) == 0.0


def test_it_is_small():
    files = [path for path in checkpoint_path(BUNDLED).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6


def test_its_sizes_are_the_presets():
    assert read_config(BUNDLED).unet == get_preset(BUNDLED).unet


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch, tiny_checkpoint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / BUNDLED).symlink_to(tiny_checkpoint)
    assert read_config(BUNDLED).preset == "tiny"
