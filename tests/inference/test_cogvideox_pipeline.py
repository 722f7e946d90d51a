"""A clip through the pipeline with CogVideoX, small and with random weights."""

import dataclasses

import numpy as np
import pytest

from star_jax.diffusion.noise import noise_key
from star_jax.errors import InputError
from star_jax.inference.memory import encoded_clips, latent_windows, plan_memory
from star_jax.inference.pieces import cut_ranges, encode_chunk
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.init.random_checkpoint import random_checkpoint
from star_jax.models.architectures import build_model
from star_jax.presets import get_preset

# What the checkpoint is sampled with.
CHOSEN = UpscaleSettings(**dataclasses.asdict(get_preset("tiny-cogvideox").sampling))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cogvideox") / "checkpoint"
    random_checkpoint(directory, "tiny-cogvideox")
    return StarPipeline.from_pretrained(directory, dtype="float32")


def test_a_clip_of_any_length_and_size(pipeline):
    """Eight frames are filled up to nine, 36x40 pixels to 48x48; both are cut again."""
    clip = np.random.default_rng(0).integers(0, 256, (8, 9, 10, 3), np.uint8)
    calls = []
    out = pipeline(clip, "a cat", num_inference_steps=2, on_progress=lambda *call: calls.append(call))
    assert out.shape == (8, 36, 40, 3) and out.dtype == np.uint8
    assert calls == [("encode", 8, 8), ("sample", 1, 2), ("sample", 2, 2), ("decode", 8, 8)]
    # The colours are the input's, frame by frame.
    np.testing.assert_allclose(out.mean((1, 2)), clip.mean((1, 2)), atol=12)
    assert np.array_equal(out, pipeline(clip, "a cat", num_inference_steps=2))
    assert not np.array_equal(out, pipeline(clip, "a dog", num_inference_steps=2))
    # The released script takes the ground truth's colours.
    settings = dataclasses.replace(CHOSEN, prompt="a cat", num_inference_steps=2)
    of_others = pipeline.stream(
        lambda size: [clip], 8, (9, 10), settings, read_colors=lambda size: [255 - clip]
    )
    means = np.concatenate(list(of_others)).mean((1, 2))
    np.testing.assert_allclose(means, 255 - clip.mean((1, 2)), atol=12)


def test_every_window_of_a_long_clip_is_a_clip_of_its_own(pipeline):
    """The first frame of every window has a latent of its own, as the network expects."""
    clip = np.random.default_rng(1).integers(0, 256, (20, 4, 4, 3), np.uint8)
    settings = UpscaleSettings(window=9, num_inference_steps=2)
    rule = pipeline.model.size_rule
    assert latent_windows(rule, 20, 9) == ((0, 3), (1, 4), (2, 5), (3, 6), (4, 7))  # of 25 frames
    assert encoded_clips(rule, 20, 9) == ((0, 9), (4, 13), (8, 17), (12, 21), (16, 25))
    assert encoded_clips(rule, 9, 9) == ((0, 9),)
    canvas, key = pipeline.canvas((4, 4), settings), noise_key(0)

    def hints(clip: np.ndarray) -> np.ndarray:
        def read(size: int):
            return (clip[i : i + size] for i in range(0, len(clip), size))

        parts = pipeline.coder.encode(read, len(clip), canvas, key, settings.window)
        return np.concatenate([np.asarray(part) for _, part in parts])

    whole = hints(clip)
    assert whole.shape[0] == 5 * 3
    # The second window is the clip of frames 4 to 12, with the noise of latents 1 to 3.
    params = {"vae": pipeline.params["vae"]}
    alone, _ = encode_chunk(pipeline.model, canvas, params, clip[4:13], None, key, np.int32(1))
    np.testing.assert_array_equal(whole[3:6], alone)
    out = pipeline(clip, "a cat", window=9, num_inference_steps=2)
    assert out.shape == (20, 16, 16, 3)
    np.testing.assert_allclose(out.mean((1, 2)), clip.mean((1, 2)), atol=16)


def test_overlapping_ranges_are_cut_from_pieces():
    clip = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1).repeat(3, -1)
    ranges = [(0, 9), (9, 13), (4, 13), (12, 21), (30, 40)]
    for size in (1, 4, 7, 20):
        cuts = list(cut_ranges((clip[i : i + size] for i in range(0, 20, size)), ranges))
        assert [list(cut[:, 0, 0, 0]) for cut in cuts] == [
            list(range(9)),
            list(range(9, 13)),
            list(range(4, 13)),
            list(range(12, 20)),
        ]


def test_exact_positions_mean_tiles_of_the_networks_own_size():
    """Smaller frames are padded to it, larger ones cut; the plan and the pipeline see the same tiles."""
    config = get_preset("cogvideox-5b")
    transformer = dataclasses.replace(config.transformer, other_grids="exact")
    model = build_model(dataclasses.replace(config, transformer=transformer))
    rule = model.size_rule
    assert rule.padded_size(180, 120) == (480, 720) and rule.padded_size(721, 1280) == (736, 1280)
    plan = plan_memory(model, CHOSEN, 9, (180, 320), budget=2**40)
    assert plan.settings.tile == (480, 720)
    tiles = CHOSEN.tiles_of(rule, (90, 160))
    assert tiles.size == (60, 90) and len(tiles) == 6
    with pytest.raises(InputError, match="tile is 480x480, but this checkpoint supports only 480x720"):
        plan_memory(model, dataclasses.replace(CHOSEN, tile=(480, 480)), 9, (180, 320))
