"""StarPipeline with the tiny preset and random weights: sizes, seeds, solvers, windows, pieces, compilations.

Compiling the network dominates, so nearly all tests run one of two programs: SHORT (four frames in one window,
guided, dpmpp_2m_sde) and LONG (six frames in two windows, unguided, a solver or step that adds no noise).
"""

import copy
import dataclasses
import weakref
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from compilations import count_compilations
from sample_frames import LONG, SHORT, moving_clip

from star_jax.errors import InputError, RunError
from star_jax.inference.denoising import ClipDenoiser
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.architectures import build_model
from star_jax.models.i2vgenxl.model import CHUNK
from star_jax.ops.platform import resolve_dtype
from star_jax.presets import get_preset


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return moving_clip(4)


@pytest.fixture(scope="module")
def upscaled(tiny_pipeline, clip) -> np.ndarray:
    return tiny_pipeline(clip, **SHORT)


def test_size_count_and_dtype(upscaled):
    assert upscaled.shape == (4, 80, 64, 3)
    assert upscaled.dtype == np.uint8
    assert upscaled.std() > 1


def test_noise_comes_from_the_seed_alone(tiny_pipeline, clip, upscaled):
    np.testing.assert_array_equal(tiny_pipeline(clip, **SHORT), upscaled)
    assert (tiny_pipeline(clip, **SHORT, seed=1) != upscaled).mean() > 0.1


def test_prompts_and_guidance_change_the_result(tiny_pipeline, clip, upscaled):
    for change in ({"prompt": "a panda"}, {"negative_prompt": ""}, {"guidance_scale": 3.0}):
        assert (tiny_pipeline(clip, **SHORT | change) != upscaled).any(), change


def test_a_second_clip_of_the_same_shape_compiles_nothing(tiny_pipeline, clip, upscaled):
    with count_compilations() as compilations:
        jax.jit(lambda x: x + len(compilations))(np.zeros(3))
        assert len(compilations) == 1, "the counter does not count"
        tiny_pipeline(clip[::-1].copy(), "another prompt", seed=5, num_inference_steps=3)
    assert len(compilations) == 1


def test_fast_spacing_evaluates_the_network_14_times(tiny_pipeline, clip, upscaled):
    """The released default; other step counts are spaced evenly and evaluated once per step."""
    for steps, evaluations in ((15, 14), (3, 3)):
        calls = []
        tiny_pipeline(
            clip, num_inference_steps=steps, on_progress=lambda *call, calls=calls: calls.append(call)
        )
        sampling = [call for call in calls if call[0] == "sample"]
        assert sampling == [("sample", i + 1, evaluations) for i in range(evaluations)]
        assert [call for call in calls if call[0] != "sample"] == [
            ("encode", 3, 4),
            ("encode", 4, 4),
            ("decode", 3, 4),
            ("decode", 4, 4),
        ]


def test_color_fixes_bring_the_mean_colors_back(tiny_pipeline):
    """A random network's colours are far off, and stay so with `none`."""
    long = moving_clip(6)

    def color_error(color_fix: str) -> float:
        frames = tiny_pipeline(long, **LONG, color_fix=color_fix)
        assert frames.shape == (6, 80, 64, 3)
        return float(np.abs(frames.mean((1, 2)) - long.mean((1, 2))).max())

    assert color_error("adain") < 8
    assert color_error("wavelet") < 8
    assert color_error("none") > 20


def test_windows_of_a_long_clip(tiny_pipeline):
    """Six frames in windows 0-3 and 2-5, cut at frame 3: with one evaluation, frames 0-2 see the first alone."""
    long = moving_clip(6)
    out = tiny_pipeline(long, **LONG)
    assert out.shape == (6, 80, 64, 3)
    changed = long.copy()
    changed[4:] = 255 - changed[4:]
    other = tiny_pipeline(changed, **LONG)
    np.testing.assert_array_equal(other[:3], out[:3])
    assert all((other[i] != out[i]).any() for i in range(3, 6))


def test_heun_evaluates_twice_per_step_but_the_last(tiny_pipeline):
    calls = []
    out = tiny_pipeline(
        moving_clip(6),
        **LONG | {"solver": "heun", "num_inference_steps": 2},
        on_progress=lambda *call: calls.append(call),
    )
    assert out.shape == (6, 80, 64, 3)
    assert [call for call in calls if call[0] == "sample"][-1] == ("sample", 3, 3)


class Pieces:
    """Reads a clip in pieces and counts how many of its frames are alive at a time."""

    def __init__(self, clip: np.ndarray):
        self.clip = clip
        self.alive = self.most_alive = 0

    def __call__(self, size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(self.clip), size):
            piece = self.clip[start : start + size].copy()
            self._change(len(piece))
            weakref.finalize(piece, self._change, -len(piece))
            yield piece
            del piece

    def _change(self, count: int) -> None:
        self.alive += count
        self.most_alive = max(self.most_alive, self.alive)


@pytest.mark.parametrize("num_frames", [24, 60])
def test_host_memory_does_not_grow_with_the_clip(tiny_pipeline, monkeypatch, num_frames):
    """Frames come and go in pieces, and the bound on those alive at a time is one for all lengths.

    It leaves room for the piece that JAX lets go of only a moment after its result is ready.
    """
    monkeypatch.setattr(ClipDenoiser, "sample", lambda self, hint, *args, **kwargs: hint)
    pieces, references, most_made = Pieces(moving_clip(num_frames)), [], 0
    for frames in tiny_pipeline.stream(pieces, num_frames, (20, 16), UpscaleSettings()):
        assert frames.shape == (CHUNK, 80, 64, 3)
        references.append(weakref.ref(frames))
        del frames
        most_made = max(most_made, sum(reference() is not None for reference in references))
    assert len(references) * CHUNK == num_frames
    assert pieces.most_alive <= 4 * CHUNK
    assert most_made <= 1


def test_non_finite_weights_are_reported(tiny_pipeline, clip, upscaled):
    for component, stage in (("unet", "sampling"), ("vae", "decoding")):
        broken = copy.copy(tiny_pipeline)
        params = dict(tiny_pipeline.params)
        if component == "unet":
            kernel = params["unet"]["conv_out"]["kernel"]
            params["unet"] = params["unet"] | {
                "conv_out": {**params["unet"]["conv_out"], "kernel": kernel * np.nan}
            }
        else:
            decoder = params["vae"]["decoder"]
            conv_out = {**decoder["conv_out"], "bias": decoder["conv_out"]["bias"] * np.nan}
            params["vae"] = params["vae"] | {"decoder": {**decoder, "conv_out": conv_out}}
        broken.params = params
        with pytest.raises(RunError, match=f"{stage} produced numbers that are not finite; try"):
            broken(clip, **SHORT)


def test_a_prompt_needs_a_text_encoder():
    config = dataclasses.replace(get_preset("tiny"), preset="tiny-null", text_encoder=None)
    pipeline = StarPipeline(build_model(config), {}, None)
    with pytest.raises(InputError, match="preset 'tiny-null' has no text encoder; leave it out"):
        pipeline(moving_clip(1), "a panda")
    context, negative = pipeline.denoiser.encode_prompts(UpscaleSettings())
    assert context.shape == (1, 1, 64) and not context.any() and negative is None


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((4, 20, 16), np.uint8),
        np.zeros((4, 20, 16, 4), np.uint8),
        np.zeros((4, 20, 16, 3), np.float32),
        np.zeros((0, 20, 16, 3), np.uint8),
        np.zeros((4, 0, 16, 3), np.uint8),
    ],
)
def test_frames_of_another_kind_are_refused(tiny_pipeline, frames):
    with pytest.raises(InputError, match=r"non-empty uint8 \(or uint16\) \[F, H, W, 3\]"):
        tiny_pipeline(frames)


@pytest.mark.parametrize("dtype", ["float64", "int8", "float", "single precision"])
def test_a_dtype_that_does_not_exist_is_refused(dtype):
    with pytest.raises(InputError, match=f"dtype is {dtype}; choose one of auto, float32, bfloat16, float16"):
        resolve_dtype(dtype)
