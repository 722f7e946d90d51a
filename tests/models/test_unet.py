"""The UNet and the ControlNet against the numbers of the original, layer by layer and as a whole."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from networks import abstract_component
from star_weights import golden_tree

from star_jax.presets import PRESETS

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "unet_tiny.npz")
CONFIG = PRESETS["tiny-golden"]
TOLERANCE = 1e-5  # the bar is 1e-4; 1.5e-6 is reached


def relative_error(actual, expected):
    return np.linalg.norm(np.asarray(actual) - expected) / np.linalg.norm(expected)


def channels_last(x):
    """(B, C, F, H, W) -> [B, F, H, W, C], (F, C, H, W) -> [1, F, H, W, C]."""
    return np.moveaxis(x, 1, -1) if x.ndim == 5 else np.moveaxis(x, 1, -1)[None]


@pytest.fixture(scope="module")
def networks():
    """(graphdef, params) of both networks, filled by the golden rule through the converter's tables."""
    return {
        name: (abstract_component(CONFIG, name)[0], golden_tree(CONFIG, name))
        for name in ("unet", "controlnet")
    }


@pytest.fixture(scope="module")
def forward(networks):
    """The golden inputs through ControlNet and UNet, jitted once."""
    (unet, unet_params), (controlnet, controlnet_params) = networks["unet"], networks["controlnet"]

    @jax.jit
    def run(unet_params, controlnet_params, x, t, y, hint):
        control = nnx.merge(controlnet, controlnet_params)(x, t, y, hint)
        return nnx.merge(unet, unet_params)(x, t, y, control), control

    inputs = channels_last(GOLDEN["x"]), GOLDEN["t"], GOLDEN["y"], channels_last(GOLDEN["hint"])
    return run(unet_params, controlnet_params, *inputs)


def test_velocity(forward):
    assert relative_error(forward[0], channels_last(GOLDEN["out"])) < TOLERANCE


@pytest.mark.parametrize("i", range(13))
def test_control_output(forward, i):
    assert len(forward[1]) == 13
    assert relative_error(forward[1][i], channels_last(GOLDEN[f"control/{i}"])) < TOLERANCE


MODULES = {  # the original's name -> ours
    "input_blocks.0.0": "conv_in",
    "input_blocks.0.1": "transformer_in",
    "input_blocks.1.0.temopral_conv": "down_blocks.0.resnets.0.temporal_conv",
    "input_blocks.1.0": "down_blocks.0.resnets.0",
    "input_blocks.1.1": "down_blocks.0.attentions.0",
    "input_blocks.1.1.transformer_blocks.0.local1": "down_blocks.0.attentions.0.block.liem1",
    "input_blocks.1.2": "down_blocks.0.temp_attentions.0",
    "input_blocks.1.2.transformer_blocks.0.local1": "down_blocks.0.temp_attentions.0.block.liem1",
    "input_blocks.3": "down_blocks.0.downsampler",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.temp_attentions.0",
    "output_blocks.2.1": "up_blocks.0.upsampler",
    "output_blocks.5.3": "up_blocks.1.upsampler",
}


def test_every_recorded_module_is_tested():
    recorded = {key.split("/")[1] for key in GOLDEN.files if key.startswith("act/")}
    assert recorded == set(MODULES) | {"time_embed", "out"}


@pytest.mark.parametrize("name", MODULES)
def test_module(networks, name):
    x, expected = GOLDEN[f"act/{name}/in"], GOLDEN[f"act/{name}/out"]
    if x.ndim > 3:
        x, expected = channels_last(x), channels_last(expected)
    extra = ()
    if "resnets" in MODULES[name] and not MODULES[name].endswith("temporal_conv"):
        extra = (GOLDEN["act/time_embed/out"],)
    elif ".attentions." in MODULES[name] and not MODULES[name].endswith("liem1"):
        extra = (GOLDEN["y"],)

    @jax.jit
    def run(params, x, *extra):
        module = nnx.merge(networks["unet"][0], params)
        for part in MODULES[name].split("."):
            module = module[int(part)] if part.isdigit() else getattr(module, part)
        if hasattr(module, "project_text"):
            extra = (module.project_text(*extra),)
        return module(x, *extra)

    assert relative_error(run(networks["unet"][1], x, *extra), expected) < TOLERANCE


def test_time_embedding(networks):
    graphdef, params = networks["unet"]
    run = jax.jit(lambda params, t: nnx.merge(graphdef, params).time_embedding(t))
    assert relative_error(run(params, GOLDEN["t"]), GOLDEN["act/time_embed/out"]) < TOLERANCE


def test_output_layers(networks):
    graphdef, params = networks["unet"]

    @jax.jit
    def run(params, x):
        unet = nnx.merge(graphdef, params)
        return unet.conv_out(jax.nn.silu(unet.conv_norm_out(x)))

    actual = run(params, channels_last(GOLDEN["act/out/in"]))
    assert relative_error(actual, channels_last(GOLDEN["act/out/out"])) < TOLERANCE
