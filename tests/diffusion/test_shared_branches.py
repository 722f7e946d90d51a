"""The branches of guidance share what does not depend on their texts, and their velocities stay what they were."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from random_trees import random_tree
from two_levels import TWO_LEVELS

from star_jax.config import UNetConfig
from star_jax.diffusion.guidance import guided_velocity, make_conditioning
from star_jax.diffusion.tiles import TiledVelocity, Tiles
from star_jax.models.i2vgenxl.controlnet import ControlNet
from star_jax.models.i2vgenxl.unet import UNet
from star_jax.models.rngs import InitRngs
from star_jax.ops.flops import traced_flops

CONFIG = dataclasses.replace(TWO_LEVELS.unet, attention_levels=(True, False))
SMALL = dataclasses.replace(CONFIG, block_out_channels=(8,), attention_levels=(True,))  # to be compiled
BATCH, SHAPE = 2, (2, 3, 12, 8, 4)  # [B, F, h, w, C]


@dataclasses.dataclass(frozen=True)
class Network:
    """ControlNet and UNet as a velocity, with or without `takes_branches`."""

    takes_branches: bool
    config: UNetConfig = CONFIG

    def __call__(self, params, x, timesteps, context, hint):
        unet, controlnet = (graph(network, self.config)[0] for network in (UNet, ControlNet))
        control = nnx.merge(controlnet, params["controlnet"])(x, timesteps, context, hint)
        return nnx.merge(unet, params["unet"])(x, timesteps, context, control)


@functools.cache
def graph(network, config):
    kwargs = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    graphdef, state = nnx.split(nnx.eval_shape(lambda: network(config, rngs=InitRngs(0), **kwargs)))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nnx.to_pure_dict(state))
    return graphdef, shapes


def arguments(config):
    networks = {"unet": UNet, "controlnet": ControlNet}
    params = {name: random_tree(graph(network, config)[1]) for name, network in networks.items()}
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    texts = (normal(BATCH, 5, config.cross_attention_dim) for _ in range(2))
    conditioning = make_conditioning(next(texts), normal(*SHAPE), next(texts), guidance_scale=3.0)
    return params, normal(*SHAPE), jnp.array([300, 700]), conditioning


def test_velocity_is_the_same_through_tiles():
    tiles = Tiles((8, 8), (12, 8), (0, 4), (0,))

    def run(takes_branches):
        velocity = TiledVelocity(Network(takes_branches, SMALL), tiles)
        assert velocity.takes_branches == takes_branches
        return np.asarray(jax.jit(functools.partial(guided_velocity, velocity))(*arguments(SMALL)))

    apart, shared = run(False), run(True)
    assert apart.shape == SHAPE
    np.testing.assert_allclose(shared, apart, rtol=1e-4, atol=2e-6 * np.abs(apart).max())


def test_what_comes_before_the_first_text_runs_once():
    abstract = jax.eval_shape(lambda: arguments(CONFIG))

    def flops(takes_branches):
        return traced_flops(
            jax.jit(functools.partial(guided_velocity, Network(takes_branches))).trace(*abstract)
        )

    assert 0.7 < flops(True) / flops(False) < 0.97


def test_one_branch_after_the_other_shares_nothing():
    assert not TiledVelocity(Network(True), Tiles((12, 8), (12, 8), (0,), (0,)), batched=False).takes_branches
