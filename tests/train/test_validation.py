import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import count_compilations
from small_objective import FRAMES, HEIGHT, WIDTH, make_objective, two_clips, weights, with_stub_network

from star_jax.diffusion.losses import LossConfig
from star_jax.evaluation.metrics.psnr import psnr
from star_jax.train.star.samples import shrink
from star_jax.video.reader import VideoReader

BUCKETS = ["0_249", "250_499", "500_749", "750_999"]


def new_objective():
    return with_stub_network(make_objective(LossConfig(frequency="off")))


@pytest.fixture(scope="module")
def objective():
    return new_objective()


@pytest.fixture(scope="module")
def scored(objective, tmp_path_factory):
    """Scores of one validation, and its picture."""
    path = tmp_path_factory.mktemp("validation") / "0000100.png"
    scores = objective.validate(*weights(), [two_clips()], path)
    return scores, path


def test_losses_by_timestep(objective, scored):
    scores, _ = scored
    losses = [scores[f"validation_loss_{bucket}"] for bucket in BUCKETS]
    assert scores["validation_loss"] == pytest.approx(np.mean(losses))
    # The stub predicts 0.3 x: near the target -x0 at pure noise it is worse than at none.
    assert len(set(losses)) == 4 and all(np.isfinite(losses))


def test_a_second_run_scores_the_same_and_compiles_nothing(scored):
    scores, _ = scored
    with count_compilations() as compiled:
        again = new_objective().validate(*weights(), [two_clips(), two_clips()], None)
    assert again == pytest.approx(scores, rel=1e-5) and compiled == []


def test_psnr_of_the_enlarged_input(scored):
    scores, _ = scored
    values = []
    for low, truth in zip(two_clips()["lq"], two_clips()["gt"], strict=True):
        size = (WIDTH, HEIGHT)
        enlarged = np.stack([cv2.resize(np.float32(f), size, interpolation=cv2.INTER_LINEAR) for f in low])
        values.append(psnr(np.uint8(np.rint(enlarged)), truth))
    assert scores["validation_psnr_input"] == pytest.approx(np.mean(values), abs=0.05)
    assert np.isfinite([scores["validation_psnr"], scores["validation_psnr_autoencoder"]]).all()


def test_the_strip_shows_input_output_and_truth(scored):
    strip = cv2.imread(str(scored[1]))[..., ::-1]
    assert strip.shape == (3 * HEIGHT + 2 * 4, FRAMES * WIDTH + (FRAMES - 1) * 4, 3)
    np.testing.assert_array_equal(strip[-HEIGHT:, :WIDTH], two_clips()["gt"][0, 0])
    assert not list(scored[1].parent.glob(".*"))


def test_a_video_of_each_clip_shows_the_same_side_by_side(scored):
    videos = sorted(scored[1].parent.glob("*.mp4"))
    assert [video.name for video in videos] == ["0000100_clip0.mp4", "0000100_clip1.mp4"]
    for video, truth in zip(videos, two_clips()["gt"], strict=True):
        frames = VideoReader(video).read(0, FRAMES)
        assert frames.shape == (FRAMES, HEIGHT, 3 * WIDTH + 2 * 4, 3)
        brightness = [clip @ np.array([0.2126, 0.7152, 0.0722]) for clip in (frames[:, :, -WIDTH:], truth)]
        assert abs(brightness[0] - brightness[1]).mean() < 6  # of noise, whose colours a video halves
    small = shrink(jnp.full((1, 2, 720, 1280, 3), 7.0))
    assert small.shape == (1, 2, 240, 426, 3) and float(small.min()) == pytest.approx(7.0)
