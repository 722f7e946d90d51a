"""Tiles and overlapping groups in the pipeline: what they leave as it is, and how smooth they are."""

import jax.numpy as jnp
import numpy as np
import pytest
from sample_frames import LONG, SHORT, moving_clip

from star_jax.diffusion.noise import noise_key
from star_jax.diffusion.tiles import make_tiles
from star_jax.errors import InputError
from star_jax.inference.pieces import Canvas, Finish, decode_chunk
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.chunks import independent_chunks
from star_jax.ops.pixels import enlarge
from star_jax.video.geometry import Padding

UNPADDED = Padding(0, 0, 0, 0)


def test_one_tile_over_all_is_no_tile(tiny_pipeline):
    clip = moving_clip(4)
    expected = tiny_pipeline(clip, **SHORT)
    tiled = tiny_pipeline(clip, **SHORT, tile=(720, 1280), vae_tile=(80, 64))
    np.testing.assert_array_equal(tiled, expected)


def test_sampling_in_tiles(tiny_pipeline):
    """A frame of two tiles: a change that one of them sees reaches the other only through their overlap."""
    clip, tiles = moving_clip(6, height=36), {"tile": (80, 64), "vae_tile": (80, 64), "color_fix": "none"}
    out = tiny_pipeline(clip, **LONG, **tiles)
    assert out.shape == (6, 144, 64, 3)
    changed = clip.copy()
    changed[:, 34:] = 255 - changed[:, 34:]
    difference = np.abs(tiny_pipeline(changed, **LONG, **tiles).astype(np.int32) - out)
    assert difference[:, :48].max() <= 2
    assert difference[:, 120:].mean() > 5 * difference[:, :48].mean()


def test_memory_is_planned_for(tiny_pipeline, monkeypatch):
    clip, seen = moving_clip(6, height=180, width=320), []

    def stream(read, num_frames, size, settings, **options):
        seen.append(settings)
        return [clip]

    monkeypatch.setattr(tiny_pipeline, "stream", stream)
    with pytest.raises(InputError, match=r"max-memory is 1 MiB, but 6 frames of 1280x720"):
        tiny_pipeline(clip, max_memory="1MiB")
    tiny_pipeline(clip, max_memory=2**30)
    tiny_pipeline(clip)
    assert seen[0].vae_tile is not None and seen[1] == UpscaleSettings()


def test_strength_blends_with_the_enlarged_input(tiny_pipeline):
    clip = moving_clip(4)
    whole = tiny_pipeline(clip, **SHORT).astype(np.float64)
    size = whole.shape[1:3]
    enlarged = np.asarray(enlarge(jnp.asarray(clip, jnp.float32), size))
    half = tiny_pipeline(clip, **SHORT, strength=0.5)
    assert np.abs(half - (whole + enlarged) / 2).max() <= 1  # rounded once, not twice
    assert np.abs(whole - enlarged).mean() > 5


@pytest.fixture(scope="module")
def decode(tiny_pipeline):
    params = {name: tiny_pipeline.params[name] for name in tiny_pipeline.model.autoencoder_components}

    def decode(latents, first, frames_lr, tiles):
        canvas = Canvas(frames_lr.shape[1:3], UNPADDED, None, tiles)
        return decode_chunk(tiny_pipeline.model, canvas, Finish(), params, latents, None, first, frames_lr)[
            :2
        ]

    return decode


def test_tiled_decoding_shows_no_seam(decode):
    """Latents that change slowly over the frame: steps between pixels at the tiles' borders are like elsewhere."""
    y, x = np.meshgrid(np.linspace(-1, 1, 34), np.linspace(-1, 1, 16), indexing="ij")
    latents = jnp.asarray(np.stack([y, x, y * x, y + x], -1), jnp.float32)[None, None].repeat(3, 1)
    frames_lr = np.zeros((3, 272, 128, 3), np.uint8)
    tiles = make_tiles((34, 16), (18, 16), 8)
    assert tiles.rows == (0, 8, 16)
    frames, finite = decode(latents, 0, frames_lr, tiles)
    assert bool(finite) and frames.shape == (3, 272, 128, 3)
    steps = np.abs(np.diff(np.asarray(frames, np.int32), axis=1)).mean((0, 2, 3))
    borders = [row * 8 - 1 for row in (8, 16)] + [(row + 18) * 8 - 1 for row in (0, 8)]
    assert max(steps[borders]) <= 1.5 * np.quantile(steps, 0.95)


def test_chunks_without_overlap_are_the_original_ones():
    assert [
        (chunk.frames, chunk.latents, chunk.first_kept, chunk.kept) for chunk in independent_chunks(8, 3)
    ] == [((0, 3), (0, 3), 0, 3), ((3, 6), (3, 6), 0, 3), ((6, 8), (6, 8), 0, 2)]


@pytest.mark.parametrize(("num_frames", "overlap"), [(1, 1), (2, 3), (3, 1), (8, 1), (10, 2), (32, 4)])
def test_overlapping_chunks_have_one_length_and_hold_their_frames(num_frames, overlap):
    chunks = independent_chunks(num_frames, 3, overlap)
    assert [chunk.frames[0] for chunk in chunks] == list(range(0, num_frames, 3))
    for chunk in chunks:
        first, stop = chunk.latents
        assert first >= 0 and stop <= num_frames and stop - first == chunk.decoded
        # The last of the frames kept are the wanted ones.
        assert first + chunk.first_kept + chunk.kept == chunk.frames[1]
        assert chunk.first_kept + chunk.kept <= chunk.decoded
    assert len({(chunk.decoded, chunk.kept) for chunk in chunks}) == 1


def test_overlap_decodes_the_same_frames_smoother(decode):
    """With overlap a frame at a group's end sees its neighbour: the jump to the next group becomes smaller."""
    frame = jnp.arange(6, dtype=jnp.float32)[None, :, None, None, None]
    latents = 0.2 * jnp.sin(frame + jnp.arange(4)) * jnp.ones((1, 6, 10, 8, 4))
    frames_lr = np.zeros((3, 80, 64, 3), np.uint8)

    tiles = make_tiles((10, 8), (10, 8), 8)

    def decoded(overlap):
        pieces = []
        for chunk in independent_chunks(6, 3, overlap):
            out, _ = decode(latents[:, slice(*chunk.latents)], chunk.first_kept, frames_lr, tiles)
            pieces.append(np.asarray(out, np.float32))
        return np.concatenate(pieces)

    together, _ = decode(latents, 0, np.zeros((6, 80, 64, 3), np.uint8), tiles)
    error = [np.abs(decoded(overlap) - np.asarray(together, np.float32))[2:4].mean() for overlap in (0, 1)]
    assert error[1] < error[0]


@pytest.mark.parametrize("change", [{"tile": (8, 16)}, {"vae_tile": (720, 8)}])
def test_tiles_too_small_for_the_network(tiny_pipeline, change):
    with pytest.raises(InputError, match="choose at least 16x16"):
        tiny_pipeline(moving_clip(2), **change)


def test_noise_does_not_depend_on_tiles(tiny_pipeline):
    """The posterior's noise is drawn for whole frames: tiles that the encoder sees change nothing else."""
    clip = moving_clip(3, height=36)

    def encoded(**settings):
        canvas = tiny_pipeline.canvas((36, 16), UpscaleSettings(scale=4, **settings))
        return np.asarray(
            next(tiny_pipeline.coder.encode(lambda size: [clip], 3, canvas, noise_key(0), 32))[1]
        )

    whole, tiled = encoded(), encoded(vae_tile=(80, 64))
    assert np.abs(whole - tiled).mean() < 0.3 * whole.std()
