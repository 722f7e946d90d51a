"""DOVER: both branches against PyTorch with seeded random weights, the views, and the table of keys."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dover_in_torch import Dover
from torch_weights import randomize

from star_jax.convert.dover_tables import IGNORED, dover_parts
from star_jax.convert.metric_networks import METRIC_NETWORKS
from star_jax.convert.rules import Table, plan
from star_jax.convert.tensors import ArrayTensor
from star_jax.evaluation.metrics.dover import (
    DOVER,
    branch_score,
    fragment_corners,
    fused,
    mosaic,
    sampled_frames,
    thumbnail,
)

WIDTH = 12


@pytest.fixture(scope="module")
def networks():
    """The network in PyTorch, narrower than the authors', and its converted parameters."""
    network = randomize(Dover(WIDTH), 0)
    tensors = {key: ArrayTensor(value.numpy()) for key, value in network.state_dict().items()}
    parts = list(dover_parts(WIDTH))
    table = Table(tuple(rule for rule, _ in parts), ignored=IGNORED)
    plan(table, tensors, {rule.target: shape for rule, shape in parts}, "source")
    params = {rule.target: jnp.asarray(rule.apply(tensors[rule.source].read())) for rule, _ in parts}
    return network, params


# 16 frames are as long as a window, 32 longer, so that windows are shifted in time.
@pytest.mark.parametrize(("branch", "shape"), [("technical", (32, 224, 224)), ("aesthetic", (4, 64, 96))])
@torch.no_grad()
def test_branches_are_those_of_pytorch(networks, branch, shape):
    network, params = networks
    view = np.random.default_rng(1).integers(0, 256, (1, *shape, 3), np.uint8)
    expected = network(branch, torch.from_numpy(view).movedim(-1, 1).float())
    assert abs(expected) > 0.05
    assert np.asarray(branch_score(branch, params, view)) == pytest.approx(expected.numpy(), rel=1e-4)


def test_the_table_is_that_of_the_authors_file():
    network = METRIC_NETWORKS["dover"]
    (table,) = network.tables
    sources = [rule.source for rule in table.rules]
    # 381 keys, of which 12 are computed; 56.2 million parameters
    assert len(sources) == len(set(sources)) == len(network.leaves) == 381 - 12
    assert sum(source.startswith("technical_backbone") for source in sources) == 193 - 12
    assert sum(source.startswith("aesthetic_backbone") for source in sources) == 180
    assert sum(int(np.prod(shape)) for shape in network.leaves.values()) == 56_218_302


def test_frames_of_the_views():
    rng = np.random.default_rng(0)
    short = sampled_frames(49, 3, 32, rng)
    assert short[:, :3].tolist() == [[0, 2, 4], [16, 18, 20], [32, 34, 36]]
    assert short[2, -1] == (32 + 62) % 49
    assert sampled_frames(49, 32, 1, rng).reshape(-1).tolist() == list(range(32))
    runs = sampled_frames(600, 3, 32, rng)
    assert ((runs // 200) == [[0], [1], [2]]).all() and (np.diff(runs, axis=1) == 2).all()
    assert (sampled_frames(1, 3, 32, rng) == 0).all()


def test_fragments_lie_in_their_cells():
    corners = fragment_corners(480, 720, np.random.default_rng(0))
    cells = np.stack(np.meshgrid(68 * np.arange(7), 102 * np.arange(7), indexing="ij"), -1)
    room = corners - cells
    assert (room >= 0).all() and (room[..., 0] < 68 - 32).all() and (room[..., 1] < 102 - 32).all()
    assert len(np.unique(room[..., 0])) > 7 and len(np.unique(room[..., 1])) > 7
    frame = np.random.default_rng(1).integers(0, 256, (480, 720, 3), np.uint8)
    made = mosaic(frame, corners)
    y, x = corners[2, 5]
    np.testing.assert_array_equal(made[64:96, 160:192], frame[y : y + 32, x : x + 32])


def test_small_frames_are_enlarged():
    frame = np.random.default_rng(0).integers(0, 256, (120, 180, 3), np.uint8)
    x = torch.from_numpy(frame).movedim(-1, 0)[None] / 255
    scale = 1 / (120 / 224)
    larger = F.interpolate(x, scale_factor=scale, mode="bilinear")[0].movedim(0, -1)
    corners = fragment_corners(120, 180, np.random.default_rng(0))
    assert corners[:, 0, 0].tolist() == [0, 17, 34, 51, 68, 85, 88]
    made = mosaic(frame, corners)
    y, x = corners[6, 3]
    expected = (larger * 255)[y : y + 32, x : x + 32].numpy()
    assert (made[192:, 96:128] == expected.astype(np.uint8)).mean() > 0.999


@pytest.mark.parametrize("size", [(480, 720), (100, 300)])
def test_thumbnails_are_bilinear_without_a_filter(size):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    x = torch.from_numpy(frame).movedim(-1, 0)[None].float()
    expected = F.interpolate(x, (224, 224), mode="bilinear")[0].movedim(0, -1).round().numpy()
    assert np.abs(thumbnail(frame) - expected).max() <= 1
    assert (thumbnail(frame) == expected).mean() > 0.9999


def test_fusion_is_the_published_one():
    assert fused(0.1107, -0.08285) == 0.5
    assert fused(0.1107 + 0.07355, -0.08285) == pytest.approx(1 / (1 + np.exp(-0.6104)))
    assert fused(0.1107, -0.08285 - 0.03774) == pytest.approx(1 / (1 + np.exp(0.3896)))


def test_a_clip_is_scored_by_its_two_views(monkeypatch):
    seen = {}

    def score(branch, params, view):
        seen.setdefault(branch, []).append(np.array(view))
        return np.full(1, 0.1107 + 0.07355 if branch == "technical" else -0.08285)

    monkeypatch.setattr("star_jax.evaluation.metrics.dover.branch_score", score)
    frames = np.repeat(np.arange(49, dtype=np.uint8), 224 * 224 * 3).reshape(49, 224, 224, 3)
    scorer = DOVER.scorer({"dover": {}}, 49)
    for start in range(0, 49, 2):
        assert scorer.add(frames[start : start + 2], None) == []
    assert scorer.finish() == [pytest.approx(1 / (1 + np.exp(-0.6104)))]
    assert [run[0, :2, 5, 5, 0].tolist() for run in seen["technical"]] == [[0, 2], [16, 18], [32, 34]]
    assert seen["aesthetic"][0][0, :, 100, 100, 1].tolist() == list(range(32))
