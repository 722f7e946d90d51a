"""The page of an upscale run, made by the command with a stand-in for the model."""

import json
import re

import numpy as np
import pytest
from sample_videos import moving_frames, write_video
from stand_in_model import StandIn

import star_jax
from star_jax.launch.cli import main

LOW = moving_frames(6, 48, 40)


@pytest.fixture(autouse=True)
def model(monkeypatch) -> None:
    monkeypatch.setattr(star_jax.StarPipeline, "from_pretrained", staticmethod(lambda *_, **__: StandIn()))


def clips_of(page) -> list[dict]:
    (found,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL
    )
    return json.loads(found)


def test_every_clip_that_is_done_is_on_the_page(tmp_path, capsys):
    clips = [write_video(tmp_path / f"{name}.mp4", LOW) for name in "ab"]
    (tmp_path / "out").mkdir()
    page = tmp_path / "page.html"
    arguments = [*clips, tmp_path / "none.mp4", "-o", tmp_path / "out", "--scale", "2", "--seed", "7"]
    assert (
        main(["upscale", *map(str, arguments), "--report", str(page), "--compile-cache", "", "--quiet"]) == 1
    )
    assert "no such file" in capsys.readouterr().err
    first, second = clips_of(page)
    assert (first["name"], second["name"]) == ("a.mp4", "b.mp4")
    assert first["panels"] == ["input, bicubic", "output"] and first["num_frames"] == 6
    assert (first["width"], first["height"]) == (96, 80)
    assert (
        first["facts"]["Settings"]["seed"] == "7" and first["facts"]["Settings"]["checkpoint"] == "tiny-star"
    )
    assert float(first["facts"]["Seconds"]["total"]) > 0
    assert str(clips[0]) in first["facts"]["Files"]["input, bicubic"]


def test_scores_where_there_is_a_truth(tmp_path):
    low = write_video(tmp_path / "low.mp4", LOW)
    truth = write_video(tmp_path / "truth.mp4", np.repeat(np.repeat(LOW, 2, 1), 2, 2))
    page = tmp_path / "page.html"
    arguments = [
        low,
        "-o",
        tmp_path / "out.mp4",
        "--scale",
        "2",
        "--compare",
        truth,
        "--report",
        page,
        "--quiet",
    ]
    assert main(["upscale", *map(str, arguments), "--compile-cache", ""]) == 0
    (clip,) = clips_of(page)
    assert clip["panels"][-1] == "ground truth" and "(bicubic: " in clip["facts"]["Scores"]["psnr"]


def test_a_page_that_cannot_be_written_is_refused_at_once(tmp_path, capsys):
    low = write_video(tmp_path / "low.mp4", LOW)
    assert (
        main(["upscale", str(low), "-o", str(tmp_path / "out.mp4"), "--report", str(tmp_path / "page.txt")])
        == 2
    )
    assert "give a name that ends in .html" in capsys.readouterr().err and not (tmp_path / "out.mp4").exists()
