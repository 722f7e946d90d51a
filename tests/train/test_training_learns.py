"""configs/tiny.py makes its networks better on made-up clips: here smaller networks, on smaller clips."""

import dataclasses
import json

from star_jax.launch.cli import main
from star_jax.presets import PRESETS, get_preset

STEPS, EVERY = 60, 20
SHORT = {
    "data.num_frames": 3,
    "data.height": 48,
    "data.width": 32,
    "diffusion.frequency": "off",  # its program takes long to compile; tests/train/test_ablations.py has it
    "train.num_steps": STEPS,
    "train.checkpoint_every_steps": STEPS,
    "train.validate_every_steps": EVERY,
    "train.curves": False,
}


def test_validation_loss_falls_and_samples_improve(tmp_path, monkeypatch):
    sizes = get_preset("tiny-star")
    one_level = dataclasses.replace(sizes.unet, block_out_channels=(64,), attention_levels=(False,))
    monkeypatch.setitem(PRESETS, "tiny-star", dataclasses.replace(sizes, unet=one_level))
    run = tmp_path / "run"
    overrides = [f"--config.{key}={value}" for key, value in SHORT.items()]
    assert main(["train", "--config", "configs/tiny.py", "--workdir", str(run), "--quiet", *overrides]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = (line for line in lines if "validation_loss" in line)
    assert (first["step"], last["step"]) == (EVERY, STEPS)
    assert last["validation_loss"] < 0.9 * first["validation_loss"]
    assert last["validation_psnr"] > first["validation_psnr"] + 0.1
    assert (run / "validation" / f"{STEPS:07d}.png").exists()
