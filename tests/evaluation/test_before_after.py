"""The page of before and after: one file, all sides in one video, in step and in place."""

import base64
import json
import re
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from sample_videos import moving_frames, write_video

from star_jax.errors import InputError
from star_jax.evaluation.before_after import compare
from star_jax.launch.cli import main

LOW = moving_frames(6, 48, 40)
HIGH = LOW.repeat(2, 1).repeat(2, 2)


def data_of(page: Path) -> list[dict]:
    """What the page's script reads."""
    text = page.read_text()
    assert not re.search(r"""(src|href)=["']?\w|https?://|url\(|@import""", text), (
        "the page needs something else"
    )
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def decoded(clip: dict, tmp_path: Path) -> np.ndarray:
    kind, data = clip["source"].split(";base64,")
    assert kind == "data:video/mp4"
    path = tmp_path / "page.mp4"
    path.write_bytes(base64.b64decode(data))
    with av.open(str(path)) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_all_sides_are_one_video(tmp_path):
    before, after = write_video(tmp_path / "low.mp4", LOW), write_video(tmp_path / "high.mkv", HIGH)
    page = tmp_path / "page.html"
    compare(before, after, page, truth=after)
    (clip,) = data_of(page)
    assert (clip["name"], clip["panels"]) == ("high.mkv", ["before", "after", "ground truth"])
    assert (clip["width"], clip["height"], clip["stride"], clip["num_frames"]) == (96, 80, 80, 6)
    frames = decoded(clip, tmp_path)
    assert frames.shape == (6, 240, 96, 3)
    for side in range(3):
        shown = frames[:, side * 80 : side * 80 + 80].astype(int)
        assert np.abs(shown - HIGH).mean() < 8 and np.abs(shown - HIGH[::-1]).mean() > 8
    assert clip["facts"]["Scores"]["psnr"].startswith("100 (bicubic: ")
    assert str(before) in clip["facts"]["Files"]["before"]


def test_a_single_picture_is_one(tmp_path):
    for name, frame in (("a.png", LOW[0]), ("b.png", HIGH[0])):
        cv2.imwrite(str(tmp_path / name), frame)
    compare(tmp_path / "a.png", tmp_path / "b.png", tmp_path / "page.html")
    (clip,) = data_of(tmp_path / "page.html")
    kind, data = clip["source"].split(";base64,")
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert kind == "data:image/png" and not clip["is_video"]
    np.testing.assert_array_equal(picture[80:], HIGH[0])


def test_text_cannot_end_the_script(tmp_path):
    folder = tmp_path / "<"
    folder.mkdir()
    name = "script><b>.png"
    for path in (folder, tmp_path):
        cv2.imwrite(str(path / "a.png"), LOW[0])
        (path / "a.png").rename(path / name)
    compare(folder / name, tmp_path / name, tmp_path / "page.html")
    assert data_of(tmp_path / "page.html")[0]["facts"]["Files"]["before"].startswith(str(folder))
    assert (tmp_path / "page.html").read_text().count("</script>") == 2


def test_clips_that_cannot_be_laid_over_each_other(tmp_path, capsys):
    low = write_video(tmp_path / "low.mp4", LOW)
    short = write_video(tmp_path / "short.mp4", HIGH[:4])
    wide = write_video(tmp_path / "wide.mp4", HIGH[:, :40])
    page = tmp_path / "page.html"
    with pytest.raises(
        InputError, match=r"has 6 frames, but .*short\.mp4 has 4; give clips of the same frames"
    ):
        compare(low, short, page)
    with pytest.raises(InputError, match="not the same picture"):
        compare(low, wide, page)
    with pytest.raises(InputError, match=r"give a name that ends in \.html"):
        compare(low, low, tmp_path / "page.txt")
    assert main(["compare", str(low), str(tmp_path / "none.mp4"), "-o", str(page)]) == 2
    assert "no such file" in capsys.readouterr().err and not page.exists()
    assert main(["compare", str(low), str(low), "-o", str(page), "--quiet"]) == 0 and page.exists()
