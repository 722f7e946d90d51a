"""A tiny model, made, loaded and compiled once for all tests that ask for it."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from star_jax.inference.pipeline import StarPipeline
from star_jax.init.random_checkpoint import random_checkpoint
from star_jax.models.architectures import build_model
from star_jax.presets import get_preset


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint directory of preset `tiny`; tests that change one copy it first."""
    directory = tmp_path_factory.mktemp("checkpoints") / "tiny"
    random_checkpoint(directory, "tiny")
    return directory


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_checkpoint) -> StarPipeline:
    """One pipeline for all tests: programs that one test compiled, the next one finds."""
    return StarPipeline.from_pretrained(tiny_checkpoint, dtype="float32")


@pytest.fixture(scope="session")
def tiny_network() -> jax.stages.Compiled:
    """UNet and ControlNet of preset `tiny`, compiled for latents [2, 8, 18, 16, 4]."""
    model = build_model(get_preset("tiny"))
    params = model.abstract_params(model.network_components)
    latents = jax.ShapeDtypeStruct((2, 8, 18, 16, 4), jnp.float32)
    context = jax.ShapeDtypeStruct((2, *model.context_shape), jnp.float32)
    steps = jax.ShapeDtypeStruct((2,), jnp.int32)
    return jax.jit(model.velocity).lower(params, latents, steps, context, latents).compile()


@pytest.fixture(scope="session")
def tiny_decoder() -> jax.stages.Compiled:
    """The decoder of preset `tiny`, compiled for latents [1, 3, 18, 16, 4]."""
    model = build_model(get_preset("tiny"))
    params = model.abstract_params(model.autoencoder_components)
    latents = jax.ShapeDtypeStruct((1, 3, 18, 16, 4), jnp.float32)
    return jax.jit(model.decode).lower(params, latents).compile()


@pytest.fixture
def unoptimised() -> Iterator[None]:
    """For programs that run a few times only: compiling them is what costs."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
