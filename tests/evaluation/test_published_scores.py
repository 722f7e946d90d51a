"""Scores with the authors' weights: values that their own packages gave for the same pictures.

The values are those of lpips 0.1.4, DISTS_pytorch 0.1, BasicSR 1.4.2 (NIQE) and IL-NIQE's Python script. A score is
skipped where its weights are not installed; the networks themselves are tested with random weights in
test_metric_networks.py and test_natural_scenes.py.
"""

from pathlib import Path

import numpy as np
import pytest

from star_jax.errors import InputError
from star_jax.evaluation.metrics.registry import METRICS
from star_jax.evaluation.weights import MetricWeights

GOLDEN = Path(__file__).parents[1] / "golden" / "picture_to_score.npz"
# score -> relative tolerance, and picture -> value
VALUES = {
    "lpips": (2e-5, {"coarse": 0.506792426, "few colours": 0.187104329}),
    "lpips_vgg": (2e-5, {"coarse": 0.500559092, "few colours": 0.412012070}),
    "dists": (2e-5, {"coarse": 0.419381320, "few colours": 0.277381241}),
    # BasicSR filters in float32, which decides about signs where a picture is flat.
    "niqe": (5e-4, {"truth": 4.462532323, "coarse": 19.782655567}),
    # A block's Weibull fit ends where its search does.
    "ilniqe": (1e-5, {"truth": 59.329202020, "few colours": 51.060403999}),
}


@pytest.fixture(scope="module")
def pictures():
    """A picture and two that are worse, uint8 [192, 288, 3]."""
    truth = np.load(GOLDEN)["truth"]
    blocks = truth.reshape(48, 4, 72, 4, 3).mean((1, 3)).round().astype(np.uint8)
    coarse = blocks.repeat(4, axis=0).repeat(4, axis=1)
    return {"truth": truth, "coarse": coarse, "few colours": truth // 32 * 32 + 16}


@pytest.mark.parametrize("name", VALUES)
def test_scores_are_those_of_the_authors_packages(pictures, name):
    try:
        networks, _ = MetricWeights().load(METRICS[name].networks)
    except InputError as error:
        pytest.skip(f"{error}; STAR_JAX_METRIC_WEIGHTS names the folder of converted weights")
    tolerance, values = VALUES[name]
    scorer = METRICS[name].scorer(networks, 1)
    ours = {picture: scorer.add(pictures[picture][None], pictures["truth"][None])[0] for picture in values}
    assert ours == pytest.approx(values, rel=tolerance)
