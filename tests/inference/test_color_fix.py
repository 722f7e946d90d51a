from pathlib import Path

import numpy as np
import pytest

from star_jax.errors import InputError
from star_jax.inference.color_fix import fix_colors


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    """Recorded corrections of the original, all as [F, H, W, 3] in [-1, 1]."""
    with np.load(Path(__file__).parents[1] / "golden" / "color_fix.npz") as arrays:
        frames = {name: arrays[name] / 127.5 - 1 for name in ("sr", "adain", "wavelet")}
        return frames | {"reference": np.moveaxis(arrays["lr_up"], 1, -1)}


def random_frames(seed: int, shape=(3, 24, 32, 3)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.8, 0.8, shape).astype(np.float32)


@pytest.mark.parametrize("method", ["adain", "wavelet"])
def test_corrections_match_the_original(recorded, method):
    out = np.asarray(fix_colors(recorded["sr"], recorded["reference"], method=method))
    # in 0..255, where a relative error means something
    error = np.linalg.norm(out - recorded[method]) / np.linalg.norm(recorded[method] + 1)
    print(f"{method}: relative error {error:.1e}")
    assert error < 1e-4


@pytest.mark.parametrize("method", ["adain", "wavelet"])
def test_every_frame_is_corrected_by_itself(method):
    frames, reference = random_frames(0), random_frames(1)
    together = fix_colors(frames, reference, method=method)
    for frame in range(3):
        alone = fix_colors(frames[frame : frame + 1], reference[frame : frame + 1], method=method)
        np.testing.assert_allclose(alone[0], together[frame], atol=3e-6)


def test_adain_takes_a_reference_of_another_size():
    frames, reference = 0.3 * random_frames(0), 0.2 * random_frames(1, (3, 6, 8, 3)) + 0.1
    out = np.asarray(fix_colors(frames, reference, method="adain"))
    np.testing.assert_allclose(out.mean((1, 2)), reference.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(out.std((1, 2), ddof=1), reference.std((1, 2), ddof=1), rtol=0.02)


@pytest.mark.parametrize("method", ["adain", "wavelet", "none"])
def test_frames_are_their_own_reference(method):
    frames = random_frames(2)
    np.testing.assert_allclose(fix_colors(frames, frames, method=method), frames, atol=1e-5)


def test_wavelet_keeps_details_and_takes_colours():
    frames = 0.2 * random_frames(3)
    flat = np.broadcast_to(np.float32([0.3, -0.2, 0.1]), frames.shape)
    out = np.asarray(fix_colors(frames, flat, method="wavelet"))
    np.testing.assert_allclose(out.mean((1, 2)), flat.mean((1, 2)), atol=0.02)
    assert np.corrcoef(out[0].ravel() - flat[0].ravel(), frames[0].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("method", ["adain", "wavelet", "none"])
def test_results_stay_in_range_and_float32(method):
    frames = 3 * random_frames(4).astype(np.float16)
    out = np.asarray(fix_colors(frames, random_frames(5), method=method))
    assert out.dtype == np.float32 and np.abs(out).max() <= 1.0


def test_black_frames_stay_finite():
    black = np.full((1, 8, 8, 3), -1.0, np.float32)
    for method in ("adain", "wavelet"):
        np.testing.assert_allclose(fix_colors(black, black, method=method), black, atol=1e-6)


def test_bad_requests_are_named():
    frames = random_frames(0)
    with pytest.raises(
        InputError, match="color fix is 'lab'; choose one of adain, wavelet, flat-wavelet, none"
    ):
        fix_colors(frames, frames, method="lab")
    with pytest.raises(InputError, match="resize the reference"):
        fix_colors(frames, random_frames(0, (3, 6, 8, 3)), method="wavelet")


def test_flat_areas_stay_as_they_are_and_the_rest_is_the_wavelet_fix():
    reference = random_frames(6, (1, 48, 96, 3))
    reference[:, :, :64] = np.float32([0.3, -0.2, 0.1])
    frames = np.clip(reference + 0.1 * random_frames(7, reference.shape), -1, 1)
    kept = np.asarray(fix_colors(frames, reference, method="flat-wavelet"))
    plain = np.asarray(fix_colors(frames, reference, method="wavelet"))
    np.testing.assert_allclose(kept[:, :, :48], reference[:, :, :48], atol=1e-6)
    np.testing.assert_array_equal(kept[:, :, 63:], plain[:, :, 63:])
    between = np.abs(kept - reference).max((0, 1, 3))[48:63]
    assert between.max() > 0 and (between <= np.abs(plain - reference).max((0, 1, 3))[48:63] + 1e-6).all()
