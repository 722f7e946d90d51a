"""The commands one after the other: train from nothing, stop, resume, assemble, upscale."""

import json

import small_experiment
from networks import abstract_component
from one_level import ONE_LEVEL
from sample_videos import moving_frames, write_video

from star_jax.checkpoints.directory import load_component, load_provenance
from star_jax.checkpoints.trees import flatten
from star_jax.launch.cli import main
from star_jax.video.reader import VideoReader


def test_from_nothing_to_a_clip(tmp_path, capsys):
    run, made = tmp_path / "run", tmp_path / "checkpoint"
    train = ["train", "--config", small_experiment.__file__, "--workdir", str(run), "--quiet"]
    assert main([*train, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "4 clips in synthetic:4" in said and "gt 4x4x12x8x3 uint8" in said and "at step 0 of 2" in said
    assert "free at" in said and "first checkpoint after" in said and "for work, on each device" in said
    assert not run.exists()
    assert main([*train, "--config.train.num_steps=1"]) == 0
    assert main(train) == 0
    assert "step 2 of 2: done" in capsys.readouterr().out
    assert "resumed at step 1" in (run / "logs" / "process_00000.log").read_text()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]

    assert main(["assemble", str(run), str(made)]) == 0
    assert load_provenance(made)["trained"]["step"] == 2
    shapes = abstract_component(ONE_LEVEL, "controlnet")[1]
    trained, fresh = (
        flatten(load_component(folder, "controlnet", shapes)) for folder in (made, run / "initial")
    )
    assert any((trained[path] != fresh[path]).any() for path in fresh)

    clip = write_video(tmp_path / "clip.mp4", moving_frames(3, 8, 6))
    output = tmp_path / "large.mp4"
    options = ["--checkpoint", str(made), "--steps", "1", "--guidance", "1", "--compile-cache", "", "--quiet"]
    assert main(["upscale", str(clip), "-o", str(output), *options]) == 0
    info = VideoReader(output).info
    assert (info.num_frames, info.width, info.height) == (3, 32, 24)
