"""Tiles and overlapping groups in the pipeline: what they leave as it is, and how smooth they are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_frames import LONG, SHORT, moving_clip

from star_jax.diffusion.noise import noise_key
from star_jax.diffusion.tiles import make_tiles
from star_jax.errors import InputError
from star_jax.inference.pieces import decode_group, decode_piece
from star_jax.inference.settings import UpscaleSettings
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
    clip = moving_clip(2)
    whole = tiny_pipeline(clip, **SHORT).astype(np.float64)
    size = whole.shape[1:3]
    enlarged = np.asarray(enlarge(jnp.asarray(clip, jnp.float32), size))
    half = tiny_pipeline(clip, **SHORT, strength=0.5)
    assert np.abs(half - (whole + enlarged) / 2).max() <= 1  # rounded once, not twice
    assert np.abs(whole - enlarged).mean() > 5


@pytest.fixture(scope="module")
def decode(tiny_pipeline):
    graphdef_and_scale = tiny_pipeline._decode.__wrapped__.args
    return jax.jit(
        partial(decode_piece, *graphdef_and_scale, spatial_factor=8, padding=UNPADDED, color_fix="none"),
        static_argnames="tiles",
    )


def test_tiled_decoding_shows_no_seam(tiny_pipeline, decode):
    """Latents that change slowly over the frame: steps between pixels at the tiles' borders are like elsewhere."""
    y, x = np.meshgrid(np.linspace(-1, 1, 34), np.linspace(-1, 1, 16), indexing="ij")
    latents = jnp.asarray(np.stack([y, x, y * x, y + x], -1), jnp.float32)[None, None].repeat(3, 1)
    frames_lr = np.zeros((3, 272, 128, 3), np.uint8)
    tiles = make_tiles((34, 16), (18, 16))
    assert tiles.rows == (0, 8, 16)
    frames, finite = decode(tiny_pipeline.params["vae"], latents, 0, frames_lr, tiles=tiles)
    assert bool(finite) and frames.shape == (3, 272, 128, 3)
    steps = np.abs(np.diff(np.asarray(frames, np.int32), axis=1)).mean((0, 2, 3))
    borders = [row * 8 - 1 for row in (8, 16)] + [(row + 18) * 8 - 1 for row in (0, 8)]
    assert max(steps[borders]) <= 1.5 * np.quantile(steps, 0.95)


def test_groups_without_overlap_are_the_original_ones():
    assert [decode_group(8, start, count, 0) for start, count in ((0, 3), (3, 3), (6, 2))] == [
        (0, 3, 0, 3),
        (3, 3, 0, 3),
        (6, 2, 0, 2),
    ]


@pytest.mark.parametrize(("num_frames", "overlap"), [(1, 1), (2, 3), (3, 1), (8, 1), (10, 2), (32, 4)])
def test_overlapping_groups_have_one_length_and_hold_their_frames(num_frames, overlap):
    lengths = set()
    for start in range(0, num_frames, 3):
        count = min(3, num_frames - start)
        first, length, first_kept, kept = decode_group(num_frames, start, count, overlap)
        lengths.add((length, kept))
        assert first >= 0 and first + length <= num_frames
        assert first + first_kept + kept == start + count  # the last `count` kept frames are the wanted ones
        assert first_kept + kept <= length
    assert len(lengths) == 1


def test_overlap_decodes_the_same_frames_smoother(tiny_pipeline, decode):
    """With overlap a frame at a group's end sees its neighbour: the jump to the next group becomes smaller."""
    frame = jnp.arange(6, dtype=jnp.float32)[None, :, None, None, None]
    latents = 0.2 * jnp.sin(frame + jnp.arange(4)) * jnp.ones((1, 6, 10, 8, 4))
    frames_lr = np.zeros((3, 80, 64, 3), np.uint8)

    def decoded(overlap):
        pieces = []
        for start in (0, 3):
            first, length, first_kept, _ = decode_group(6, start, 3, overlap)
            group = latents[:, first : first + length]
            out, _ = decode(
                tiny_pipeline.params["vae"], group, first_kept, frames_lr, tiles=make_tiles((10, 8))
            )
            pieces.append(np.asarray(out, np.float32))
        return np.concatenate(pieces)

    together, _ = decode(
        tiny_pipeline.params["vae"], latents, 0, np.zeros((6, 80, 64, 3), np.uint8), tiles=make_tiles((10, 8))
    )
    error = [np.abs(decoded(overlap) - np.asarray(together, np.float32))[2:4].mean() for overlap in (0, 1)]
    assert error[1] < error[0]


@pytest.mark.parametrize("change", [{"tile": (64, 64)}, {"vae_tile": (720, 32)}])
def test_tiles_too_small_for_the_network(change):
    with pytest.raises(InputError, match="choose at least 80x64"):
        UpscaleSettings(**change)


def test_noise_does_not_depend_on_tiles(tiny_pipeline):
    """The posterior's noise is drawn for whole frames: tiles that the encoder sees change nothing else."""
    clip = moving_clip(3, height=36)
    settings = UpscaleSettings(scale=4)
    padding = settings.padding_of(144, 64)
    whole, tiled = (
        np.asarray(tiny_pipeline._encode_padded(clip, noise_key(0), 0, (144, 64), padding, settings))
        for settings in (settings, UpscaleSettings(scale=4, vae_tile=(80, 64)))
    )
    assert np.abs(whole - tiled).mean() < 0.3 * whole.std()
