import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_level import ONE_LEVEL
from random_trees import random_tree

from star_jax.errors import InputError
from star_jax.models.architectures import build_model
from star_jax.ops.flops import traced_flops
from star_jax.ops.remat import rematerialise
from star_jax.ops.splash import splash_attention

SHAPE = (1, 2, 4, 4, 4)  # [B, F, h, w, C]


def velocity_loss(remat: str):
    """A loss of STAR's network with dropout, and its weights."""
    model = build_model(ONE_LEVEL, remat=remat)
    params = {name: random_tree(model.abstract(name)) for name in model.network_components}
    rng = np.random.default_rng(1)
    sample, hint = (jnp.asarray(rng.standard_normal(SHAPE), jnp.float32) for _ in range(2))
    context = jnp.asarray(rng.standard_normal((1, 3, 16)), jnp.float32)

    def loss(params):
        steps, dropout_key = jnp.array([500]), jax.random.key(0)
        out = model.velocity(params, sample, steps, context, hint, dropout_key=dropout_key)
        return jnp.square(out).mean()

    return loss, params


def decoder_loss(remat: str):
    model = build_model(ONE_LEVEL, remat=remat)
    params = {name: random_tree(model.abstract(name)) for name in model.autoencoder_components}

    def loss(latents):
        return jnp.square(model.bind(params, "vae").decode(latents)).mean()

    return loss, jnp.asarray(np.random.default_rng(2).standard_normal(SHAPE), jnp.float32)


def kept_bytes(loss, argument) -> int:
    """What the forward pass keeps for the backward pass."""
    backward = jax.eval_shape(lambda x: jax.vjp(loss, x)[1], argument)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))


@pytest.mark.parametrize("network", [velocity_loss, decoder_loss])
def test_less_is_kept(network):
    none, dots, full = (kept_bytes(*network(policy)) for policy in ("none", "dots", "full"))
    assert full <= dots < none and full < 0.6 * none


def test_gradients_are_the_same():
    """Of the decoder: the networks wrap their blocks in the same way, and compile for longer."""
    values = []
    for policy in ("none", "full"):
        loss, latents = decoder_loss(policy)
        values.append(jax.jit(jax.value_and_grad(loss))(latents))
    (value, gradient), (other_value, other_gradient) = values
    np.testing.assert_allclose(other_value, value, rtol=1e-5)
    scale = float(jnp.abs(gradient).max())
    np.testing.assert_allclose(other_gradient, gradient, rtol=1e-3, atol=1e-5 * scale)


def test_flash_attention_is_kept_by_name():
    x = jax.ShapeDtypeStruct((2, 256, 3, 64), jnp.bfloat16)

    def output(policy):
        return rematerialise(lambda x: splash_attention(x, x, jnp.sin(x)), policy)

    def products(policy):
        step = jax.make_jaxpr(jax.value_and_grad(lambda x: output(policy)(x).sum()))(x)
        return traced_flops(step) / (2 * 2 * 3 * 256 * 256 * 64)

    assert products("full") == pytest.approx(2 + 2 + 4 + 3, rel=1e-3)  # forward twice, two kernels backward
    assert products("attention") == pytest.approx(2 + 4 + 3, rel=1e-3)
    kept = kept_bytes(output("attention"), x) - kept_bytes(output("full"), x)
    assert kept == 2 * 256 * 3 * (64 * 2 + 4)  # outputs and log-sum-exps


def test_unknown_policy():
    with pytest.raises(InputError, match="remat policy is 'some'; choose one of none, dots, attention, full"):
        rematerialise(jnp.sin, "some")
