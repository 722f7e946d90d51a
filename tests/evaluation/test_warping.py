"""E*warp against a transcription in NumPy, pixel by pixel; halving and padding; tOF."""

import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.evaluation.metrics import ewarp
from star_jax.evaluation.metrics.ewarp import WarpScorer, error_of_flows, occluded, warp
from star_jax.evaluation.metrics.tof import TofScorer

HEIGHT, WIDTH = 12, 17


def at(image, y, x):
    """One bilinear sample, with the border's pixels beyond it."""
    top, left = int(np.floor(y)), int(np.floor(x))
    total = 0
    for row, wy in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, wx in ((left, 1 - (x - left)), (left + 1, x - left)):
            pixel = image[np.clip(row, 0, HEIGHT - 1), np.clip(column, 0, WIDTH - 1)]
            total = total + wy * wx * pixel
    return total


def plain_error(first, second, forward, backward):
    total, visible = 0.0, 0
    for y in range(HEIGHT):
        for x in range(WIDTH):
            f = forward[y, x]
            back = at(backward, y + f[1], x + f[0])
            occlusion = np.sum((back + f) ** 2) > 0.01 * (np.sum(back**2) + np.sum(f**2)) + 0.5
            right = f - forward[y, x + 1] if x + 1 < WIDTH else np.zeros(2)
            below = f - forward[y + 1, x] if y + 1 < HEIGHT else np.zeros(2)
            if occlusion or np.sum(right**2) + np.sum(below**2) > 0.01 * np.sum(f**2) + 0.002:
                continue
            visible += 1
            total += np.sum((at(second, y + f[1], x + f[0]) - first[y, x]) ** 2)
    return total / max(visible, 1), visible


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, HEIGHT, WIDTH, 3))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    forward = np.stack([3 + 0.02 * x, -1.5 + 0.03 * y], -1)
    backward = -forward + rng.normal(0, 0.3, forward.shape)  # some pixels contradict
    forward[5:, 10:] += 2  # an edge
    return first, second, forward, backward


def test_error_is_the_transcription(case):
    expected, visible = plain_error(*case)
    assert 0 < visible < HEIGHT * WIDTH  # the mask does something
    assert int(jnp.sum(~occluded(*map(jnp.asarray, case[2:])))) == visible
    assert float(error_of_flows(*map(jnp.asarray, case))) == pytest.approx(expected, rel=1e-5)


def test_where_nothing_is_visible_the_error_is_0(case):
    first, second, forward, _ = case
    assert float(error_of_flows(first, second, forward, forward + 100)) == 0


def test_warp_by_whole_pixels_shifts():
    image = jnp.asarray(np.random.default_rng(1).random((HEIGHT, WIDTH, 3)))
    shifted = warp(image, jnp.broadcast_to(jnp.array([2.0, -1.0]), (HEIGHT, WIDTH, 2)))
    np.testing.assert_allclose(shifted[1:, :-2], image[:-1, 2:], rtol=1e-6)
    np.testing.assert_allclose(shifted[1:, -1], image[:-1, -1], rtol=1e-6)  # the border's pixel beyond it


def test_frames_are_halved_and_padded_on_both_sides(monkeypatch):
    seen = {}
    monkeypatch.setattr(ewarp, "encode", lambda params, frames: seen.setdefault(len(seen), frames))
    frame = np.random.default_rng(2).integers(0, 256, (27, 39, 3), np.uint8)
    prepare = ewarp.prepare.__wrapped__
    half, _ = prepare({}, frame, False)
    plain = frame[:26, :38].reshape(13, 2, 19, 2, 3).mean((1, 3)) / 255
    assert half.shape == (1, 16, 24, 3)
    np.testing.assert_allclose(half[0, 1:14, 2:21], plain, rtol=1e-5)  # 3 rows: 1 and 2; 5 columns: 2 and 3
    np.testing.assert_array_equal(half[0, 0], half[0, 1])
    prepare({}, frame, True)
    np.testing.assert_allclose(seen[0] * 255, seen[1], rtol=1e-6)  # what the published script leaves out


def test_pairs_across_calls_are_scored(monkeypatch):
    monkeypatch.setattr(ewarp, "prepare", lambda params, frame, corrected: float(frame[0, 0, 0]))
    monkeypatch.setattr(ewarp, "warping_error", lambda params, a, b: abs(a - b) / 1000)
    frames = np.array([1, 4, 4, 9], np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    whole, pieces = WarpScorer(False, {"raft": {}}, 4), WarpScorer(False, {"raft": {}}, 4)
    assert whole.add(frames, None) == pytest.approx([3, 0, 5])
    assert pieces.add(frames[:2], None) == pytest.approx([3])
    assert pieces.add(frames[2:], None) == pytest.approx([0, 5])


def test_tof_of_the_same_motion_is_0_and_of_another_its_distance():
    rng = np.random.default_rng(3)
    scene = np.kron(rng.integers(0, 256, (24, 24, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    truth = np.stack([scene[20:148, 20 + 2 * i : 148 + 2 * i] for i in range(3)])
    assert TofScorer().add(truth, truth) == [0, 0]
    still = np.stack([truth[0]] * 3)
    assert np.mean(TofScorer().add(still, truth)) == pytest.approx(2, abs=0.4)
