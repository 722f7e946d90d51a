"""Tiles: cover, overlap, one tile is the function itself, no seams, and a network that is traced once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.diffusion.tiles import OVERLAP, TiledVelocity, make_tiles, map_tiles
from star_jax.errors import InputError


@pytest.mark.parametrize(
    ("full", "size"),
    [((90, 160), (90, 160)), ((122, 216), (66, 96)), ((34, 32), (10, 8)), ((50, 64), (34, 200))],
)
def test_tiles_cover_the_frame_and_overlap(full, size):
    tiles = make_tiles(full, size, 8)
    seen = np.zeros(full, int)
    for row in tiles.rows:
        for column in tiles.columns:
            seen[row : row + tiles.size[0], column : column + tiles.size[1]] += 1
    assert seen.min() >= 1
    for starts, length, whole in zip((tiles.rows, tiles.columns), tiles.size, full, strict=True):
        assert starts[0] == 0 and starts[-1] + length == whole
        assert all(start % 8 == 0 for start in starts)
        if length >= 32:
            assert all(b - a <= (1 - OVERLAP) * length for a, b in itertools.pairwise(starts))


def test_no_more_tiles_than_needed():
    assert len(make_tiles((90, 160), (90, 160), 8)) == 1
    assert make_tiles((90, 160), (90, 96), 8).columns == (0, 64)


@pytest.mark.parametrize("size", [(88, 160), (90, 100), (2, 160)])
def test_tiles_that_the_network_does_not_take(size):
    with pytest.raises(InputError, match="differ from the frame's by a multiple"):
        make_tiles((90, 160), size, 8)


def test_one_tile_is_the_function_itself():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 18, 16, 4)), jnp.float32)
    out = map_tiles(lambda x: jnp.cumsum(x, axis=2), make_tiles((18, 16), (18, 16), 8), x)
    np.testing.assert_array_equal(out, jnp.cumsum(x, axis=2))


@pytest.mark.parametrize(("in_factor", "out_factor"), [(1, 1), (1, 8), (8, 1)])
def test_what_is_local_does_not_see_the_tiles(in_factor, out_factor):
    """A map of single latents to blocks of pixels, and back."""
    tiles = make_tiles((34, 48), (18, 16), 8)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 34, 48, 1)), jnp.float32)
    x = x.repeat(in_factor, 2).repeat(in_factor, 3)

    def local(x):
        x = jnp.sin(x[:, :, ::in_factor, ::in_factor])
        return x.repeat(out_factor, 2).repeat(out_factor, 3)

    out = map_tiles(local, tiles, x, in_factor=in_factor, out_factor=out_factor)
    np.testing.assert_allclose(out, local(x), atol=1e-6)


def test_gradient_shows_no_seam():
    """Tiles that disagree by a whole unit (each returns its own mean) join without a visible step."""
    ramp = jnp.linspace(0, 10, 160)[None, None, None, :, None] * jnp.ones((1, 1, 90, 1, 1))
    tiles = make_tiles((90, 160), (34, 48), 8)
    out = np.asarray(map_tiles(lambda x: jnp.full_like(x, x.mean()), tiles, ramp))[0, 0, :, :, 0]
    step_between_tiles = 10 / (len(tiles.columns) + 1)
    assert np.abs(np.diff(out, axis=0)).max() < 1e-4
    # A hard cut would jump by the whole step; the steepest part of the blend takes several pixels.
    assert np.diff(out, axis=1).max() < 0.3 * step_between_tiles
    assert (np.diff(out, axis=1) > -1e-4).all()
    exact = np.asarray(map_tiles(lambda x: x, tiles, ramp))
    np.testing.assert_allclose(exact, ramp, atol=1e-5)


def test_network_is_traced_once_and_found_again():
    calls = []

    def network(params, x, timesteps, context, hint):
        calls.append(x.shape)
        return params * x + hint + timesteps[:, None, None, None, None] + context.mean()

    sample = jax.jit(lambda *args, velocity: velocity(*args), static_argnames="velocity")
    x = jnp.ones((2, 3, 34, 32, 4))
    args = (2.0, x, jnp.array([1, 2]), jnp.ones((2, 5, 6)), 3 * x)
    out = sample(*args, velocity=TiledVelocity(network, make_tiles((34, 32), (18, 16), 8)))
    np.testing.assert_allclose(out[:, 0, 0, 0, 0], [7, 8], rtol=1e-6)
    assert set(calls) == {(2, 3, 18, 16, 4)}
    traced = len(calls)
    sample(*args, velocity=TiledVelocity(network, make_tiles((34, 32), (18, 16), 8)))
    assert len(calls) == traced


def test_branches_one_after_the_other():
    def network(params, x, timesteps, context, hint):
        assert len(x) == len(timesteps) == len(context) == len(hint)
        return params * x + hint + timesteps[:, None, None, None, None] + context.mean((1, 2))[0]

    rng = np.random.default_rng(0)
    x, context = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 3, 18, 16, 4), (2, 5, 6))
    )
    tiles, args = make_tiles((18, 16), (18, 16), 8), (2.0, x, jnp.array([1, 2]), context, 3 * x)
    one_by_one = TiledVelocity(network, tiles, batched=False)(*args)
    for i in (0, 1):
        alone = network(2.0, *(arg[i : i + 1] for arg in args[1:]))
        np.testing.assert_allclose(one_by_one[i : i + 1], alone, rtol=1e-6)
