"""Peers: clips enlarged by an ncnn model, one folder of images for each."""

import sys

import cv2
import numpy as np
import pytest

from star_jax.launch import ncnn_model

# Nearest neighbour, four times as large.
PARAM = """7767517
2 2
Input  in 0 1 in
Interp up 1 1 in out 0=1 1=4.0 2=4.0
"""


@pytest.fixture
def clips(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name in ("seed_0/cat", "seed_1/cat"):
        (tmp_path / "low" / name).mkdir(parents=True)
        for number in range(3):
            frame = rng.integers(0, 256, (8, 12, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "low" / name / f"{number}.png"), frame)
    (tmp_path / "nearest.param").write_text(PARAM)
    (tmp_path / "nearest.bin").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def enlarged(frame):
    return frame.repeat(4, axis=0).repeat(4, axis=1)


def test_every_clip_of_a_folder_is_enlarged_once(clips, monkeypatch, capsys):
    monkeypatch.setattr(ncnn_model, "load_model", lambda path: enlarged)
    command = ["nearest", "low", "result", "--frames", "2"]
    assert ncnn_model.main(command) == 0
    for name in ("seed_0/cat", "seed_1/cat"):
        made = sorted((clips / "result" / name).iterdir())
        assert [path.name for path in made] == ["00000.png", "00001.png"]
        first = cv2.imread(str(clips / "low" / name / "0.png"))
        np.testing.assert_array_equal(cv2.imread(str(made[0])), enlarged(first))
    (clips / "result" / "seed_1" / "cat" / "00000.png").write_bytes(b"kept")
    assert ncnn_model.main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (clips / "result" / "seed_1" / "cat" / "00000.png").read_bytes() == b"kept"


def test_a_single_clip_is_enlarged_into_the_folder_itself(clips, monkeypatch):
    monkeypatch.setattr(ncnn_model, "load_model", lambda path: enlarged)
    assert ncnn_model.main(["nearest", "low/seed_0/cat", "out"]) == 0
    assert len(list((clips / "out").iterdir())) == 3


def test_a_model_runs_with_ncnn(clips):
    pytest.importorskip("ncnn")
    frame = np.random.default_rng(1).integers(0, 256, (8, 12, 3), np.uint8)
    result = ncnn_model.load_model(ncnn_model.find_model("nearest"))(frame)
    np.testing.assert_array_equal(result, enlarged(frame))


def test_mistakes_are_named_in_one_line(clips, monkeypatch, capsys):
    cases = [
        (["nowhere/model", "low", "out"], "cannot find nowhere/model.param and nowhere/model.bin"),
        (["nearest", "low", "out", "--frames", "0"], "--frames is 0; give at least 1"),
        (["nearest", "low", "out"], "pip install 'star_jax[peers]'"),
    ]
    monkeypatch.setitem(sys.modules, "ncnn", None)
    for arguments, message in cases:
        assert ncnn_model.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (clips / "out").exists()
