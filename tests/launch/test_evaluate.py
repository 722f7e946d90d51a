"""star-jax evaluate, as a user runs it."""

import json

import cv2
import numpy as np
import pytest
from sample_videos import write_video

from star_jax.data.made_up.synthetic import SyntheticVideo
from star_jax.evaluation.metrics.psnr import psnr
from star_jax.evaluation.metrics.ssim import ssim
from star_jax.evaluation.picture import comparison
from star_jax.launch.cli import main

SIZE = (48, 64)


def write_images(folder, frames):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return folder


def shrink(frames):
    return np.stack(
        [cv2.resize(f, (SIZE[1] // 4, SIZE[0] // 4), interpolation=cv2.INTER_AREA) for f in frames]
    )


@pytest.fixture
def clips(tmp_path):
    """Two clips as images: ground truth, a result with an error of 2 levels, low resolution."""
    for index, name in enumerate(("cat", "dog")):
        truth = SyntheticVideo(index, *SIZE, 5).read(0, 5, 1)
        write_images(tmp_path / "truth" / name, truth)
        result = np.where(truth > 127, truth - 2, truth + 2).astype(np.uint8)
        write_images(tmp_path / "results" / name, result)
        write_images(tmp_path / "low" / name, shrink(truth))
    return tmp_path


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments)])


def test_scores_folders_and_the_interpolated_input(clips, capsys):
    report_file = clips / "scores.json"
    arguments = [clips / "results", clips / "truth", "--input", clips / "low", "--baseline", "bicubic"]
    assert evaluate(*arguments, "--json", report_file) == 0
    table = capsys.readouterr().out
    assert "cat" in table and "dog" in table and "bicubic, mean" in table and "42.11 (+" in table
    report = json.loads(report_file.read_text())
    assert (report["baseline"], report["num_clips"]) == ("bicubic", 2)
    cat = report["clips"][0]
    assert (cat["name"], cat["num_frames"], cat["frame_size"]) == ("cat", 5, list(SIZE))
    assert cat["files"]["input"] == str(clips / "low" / "cat")
    assert cat["scores"]["psnr"] == pytest.approx(20 * np.log10(255 / 2))
    truth = SyntheticVideo(0, *SIZE, 5).read(0, 5, 1)
    enlarged = [cv2.resize(low, SIZE[::-1], interpolation=cv2.INTER_CUBIC) for low in shrink(truth)]
    expected = np.mean([psnr(a, b) for a, b in zip(enlarged, truth, strict=True)])
    assert cat["baseline_scores"]["psnr"] == pytest.approx(expected)
    assert cat["baseline_scores"]["ssim"] == pytest.approx(
        np.mean([ssim(a, b) for a, b in zip(enlarged, truth, strict=True)])
    )
    for key in ("psnr", "ssim", "psnr_y", "ssim_y", "flicker"):
        rows = [clip["scores"][key] for clip in report["clips"]]
        assert report["mean"]["scores"][key] == pytest.approx(np.mean(rows))
        change = cat["scores"][key] - cat["baseline_scores"][key]
        assert cat["difference"][key] == pytest.approx(change)
    assert report["command"].startswith("star-jax") and report["versions"]["numpy"]


def test_sets_of_results_share_the_ground_truth(clips, capsys):
    for seed in (0, 1):
        for name in ("cat", "dog"):
            source = clips / "results" / name
            target = clips / "sets" / f"seed_{seed}" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    assert evaluate(clips / "sets", clips / "truth", "--json", clips / "scores.json") == 0
    names = [clip["name"] for clip in json.loads((clips / "scores.json").read_text())["clips"]]
    assert names == ["seed_0/cat", "seed_0/dog", "seed_1/cat", "seed_1/dog"]
    assert "baseline" not in capsys.readouterr().out


def test_single_clips_match_whatever_their_names(clips, capsys):
    frames = SyntheticVideo(0, *SIZE, 5).read(0, 5, 1)
    video = write_video(clips / "other.mp4", frames)
    assert evaluate(video, clips / "truth" / "cat") == 0
    assert "other" in capsys.readouterr().out
    image = clips / "truth" / "cat" / "0.png"
    assert evaluate(image, image) == 0
    assert "100.00" in capsys.readouterr().out


def test_crop_scores_the_top_left_part(clips, capsys):
    frames = SyntheticVideo(0, *SIZE, 5).read(0, 5, 1)
    smaller = write_images(clips / "smaller", frames[:, :44, :61])
    assert evaluate(smaller, clips / "truth" / "cat") == 2
    error = capsys.readouterr().err
    assert "is 61x44" in error and "64x48" in error and "--crop" in error and error.count("\n") == 1
    assert evaluate(smaller, clips / "truth" / "cat", "--crop", "--json", clips / "s.json") == 0
    clip = json.loads((clips / "s.json").read_text())["clips"][0]
    assert clip["frame_size"] == [44, 61] and clip["scores"]["psnr"] == 100.0


def test_picture_shows_input_output_and_truth(clips, capsys):
    picture = clips / "picture.png"
    names = [clips / folder / "cat" for folder in ("results", "truth", "low")]
    assert evaluate(*names[:2], "--input", names[2], "--picture", picture, "--frame", 3) == 0
    assert "frame 3 of cat" in capsys.readouterr().out
    image = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
    height, width = SIZE
    assert image.shape == (28 + 2 * height + 4, 3 * width + 8, 3)
    truth = SyntheticVideo(0, *SIZE, 5).frame(3)
    shown = image[28 : 28 + height, 2 * (width + 4) :]
    assert (shown == truth).all(axis=-1).mean() > 0.85  # all but the frame around the part


def test_the_zoomed_part_is_where_the_truth_has_most_detail():
    truth = np.full((64, 64, 3), 90, np.uint8)
    truth[40:56:2, 8:24] = 200
    image = comparison({"output": np.zeros_like(truth), "ground truth": truth})
    zoomed = image[28 + 64 + 4 :, 64 + 4 :]
    assert zoomed.shape == truth.shape
    assert (zoomed == 200).mean() > 0.4  # the striped part: half of it would be 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["results", "truth/cat", "--picture", "no/p.png"], "no ground truth in"),
        (["results/cat", "truth"], "no result for dog"),
        (["results", "truth", "--baseline", "bicubic"], "--baseline needs the low-resolution clips"),
        (
            ["results", "truth", "--input", "low", "--baseline", "nearest"],
            "baseline is 'nearest'; choose one of",
        ),
        (["results", "truth", "--picture", "p.png"], "--picture shows one clip, not 2"),
        (["results/cat", "truth/cat", "--picture", "p.jpg"], "ends in .png"),
        (["results/cat", "truth/cat", "--picture", "p.png", "--frame", "5"], "choose 0 to 4"),
        (["results/cat", "truth/cat", "--frame", "1"], "add --picture"),
        (["results", "truth", "--json", "nowhere/s.json"], "give a file in a folder that exists"),
        (["results", "nothing"], "no such file or folder"),
        (["results", "empty"], "neither videos nor folders of images"),
        (["results/cat", "short"], "results/cat has 5 frames, but short has 3"),
        (["results/cat", "truth/cat", "--input", "wide"], "which cannot be the low resolution of"),
        (["tiny", "tiny"], "SSIM needs 11x11"),
        (["twice", "truth"], "are both named 'cat'"),
    ],
)
def test_names_mistakes_in_one_line(clips, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(clips)
    frames = SyntheticVideo(0, *SIZE, 5).read(0, 5, 1)
    (clips / "empty").mkdir()
    write_images(clips / "short", frames[:3])
    write_images(clips / "wide", frames[:, ::4, ::2])
    write_images(clips / "tiny", frames[:, :8, :8])
    write_images(clips / "twice" / "cat", frames)
    write_video(clips / "twice" / "cat.mp4", frames)
    assert evaluate(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(clips.glob(".*")) and not (clips / "p.png").exists()


def test_degraded_images_can_be_measured_on(clips, capsys):
    frames = SyntheticVideo(0, *SIZE, 5).read(0, 5, 1)
    video = write_video(clips / "clip.mp4", frames)
    output = clips / "degraded" / "%05d.png"
    assert main(["degrade", str(video), "-o", str(output), "--seed", "2"]) == 0
    assert len(list(output.parent.iterdir())) == 5
    result = write_images(clips / "copy", frames)
    assert evaluate(result, video, "--input", output.parent) == 0
