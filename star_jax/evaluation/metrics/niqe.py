"""NIQE (Mittal et al. 2013): distance of block statistics from those of natural images. No ground truth."""

import numpy as np

from star_jax.evaluation.metrics.metric import FrameScorer, Metric, Networks
from star_jax.evaluation.metrics.natural_scenes import in_blocks, luminance_features, normalised, resize
from star_jax.evaluation.metrics.psnr import studio_luma

BLOCK = 96


def niqe(natural: dict[str, np.ndarray], frame: np.ndarray) -> float:
    """NIQE of a frame, from blocks of 96x96 at two scales; lower is more natural.

    Args:
      natural: statistics of `niqe`: mean [36], covariance [36, 36], window [7, 7].
      frame: uint8 [H, W, 3], RGB; sides at least 192, for enough blocks to estimate a covariance.
    """
    rows, columns = frame.shape[0] // BLOCK, frame.shape[1] // BLOCK
    image = np.round(studio_luma(frame[: rows * BLOCK, : columns * BLOCK]))
    half = resize(image / 255, image.shape[0] // 2, image.shape[1] // 2) * 255
    features = np.concatenate(
        [
            luminance_features(in_blocks(normalised(scaled, natural["window"]), size))
            for scaled, size in ((image, BLOCK), (half, BLOCK // 2))
        ],
        axis=1,
    )
    mean = np.nanmean(features, axis=0)
    covariance = np.cov(features[~np.isnan(features).any(axis=1)], rowvar=False)
    difference = natural["mean"] - mean
    inverse = np.linalg.pinv((natural["covariance"] + covariance) / 2)
    return float(np.sqrt(difference @ inverse @ difference))


def _scorer(networks: Networks, _num_frames: int) -> FrameScorer:
    natural = {name: np.asarray(value, np.float64) for name, value in networks["niqe"].items()}
    return FrameScorer(lambda frame, _truth: niqe(natural, frame))


NIQE = Metric(
    "NIQE",
    3,
    False,
    _scorer,
    "luma between 16 and 235, blocks 96x96, the Gaussian of the authors' release (BasicSR 1.4.2)",
    needs_truth=False,
    networks=("niqe",),
    smallest_side=2 * BLOCK,
)
