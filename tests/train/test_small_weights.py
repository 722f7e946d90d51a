"""The optimizer sees one vector in place of the small arrays, and computes the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from star_jax.ops.platform import targeting
from star_jax.parallel.weights import is_small
from star_jax.train.config import OptimizerConfig
from star_jax.train.optimizer import make_optimizer
from star_jax.train.small_weights import join_small, part_small, small_as_one

SHAPES = {
    "small": {"controlnet": {"scale": (7,), "kernel": (3, 2, 5)}, "unet": {"liem": (2, 1), "scalar": ()}},
    "large": {"controlnet": {"kernel": (128, 129)}, "unet": {"kernel": (2**14,)}},
    "both": {"controlnet": {"bias": (5,), "kernel": (130, 128)}, "unet": {"a": (2**14 - 1,), "b": (3,)}},
}


def random_tree(shapes, seed):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(random.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda shape: isinstance(shape, tuple),
    )


@pytest.mark.parametrize("name", SHAPES)
def test_parting_undoes_joining(name):
    tree = random_tree(SHAPES[name], 0)
    joined = join_small(tree)
    assert len(joined) == sum(not is_small(leaf.shape) for leaf in jax.tree.leaves(tree)) + (name != "large")
    jax.tree.map(np.testing.assert_array_equal, part_small(joined, tree), tree)


def test_accelerators_see_every_array():
    tree = random_tree(SHAPES["both"], 0)
    with targeting("gpu"):
        joined = join_small(tree)
        jax.tree.map(np.testing.assert_array_equal, part_small(joined, tree), tree)
    jax.tree.map(np.testing.assert_array_equal, joined, jax.tree.leaves(tree))


@pytest.mark.parametrize("name", SHAPES)
def test_updates_and_state_are_those_of_the_transformation(name):
    plain = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.1))
    together = small_as_one(plain)
    found = expected = random_tree(SHAPES[name], 0)
    states = [transform.init(expected) for transform in (together, plain)]
    for step in range(3):
        gradients = random_tree(SHAPES[name], step + 1)
        updates, states[0] = jax.jit(together.update)(gradients, states[0], found)
        found = optax.apply_updates(found, updates)
        updates, states[1] = jax.jit(plain.update)(gradients, states[1], expected)
        expected = optax.apply_updates(expected, updates)
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    for one, other in zip(
        jax.tree.leaves((found, states[0])), jax.tree.leaves((expected, states[1])), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("groups", ["", "unet/*:learning_rate=0.1"])
def test_a_small_array_adds_few_operations(groups):
    """The optimizer's some thirty operations are not repeated for it."""
    optimizer = make_optimizer(OptimizerConfig(groups=groups), 10)

    def operations(count):
        tree = {
            "unet": {f"bias_{index}": jnp.zeros((3,)) for index in range(count)},
            "other": jnp.zeros((4,)),
        }
        state = optimizer.transform.init(tree)
        return len(jax.make_jaxpr(optimizer.transform.update)(tree, state, tree).eqns)

    assert operations(12) - operations(2) <= 10 * 14
