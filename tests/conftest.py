"""What the tests share: compiled programs, the order of the files, and a tiny model, loaded once."""

import fcntl
import os
import shutil
import signal
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import shape_checks  # noqa: F401  before anything of star_jax is imported
from fewer_levels import FEWER_LEVELS
from quick_programs import QUICK_FLAGS, collect_garbage_seldom

from star_jax.inference.pipeline import StarPipeline
from star_jax.init.random_checkpoint import random_checkpoint
from star_jax.models.architectures import build_model
from star_jax.presets import get_preset

_CACHE = "JAX_COMPILATION_CACHE_DIR"
_SHORTEST = "0.5"  # seconds of compilation that are worth a file
# Most programs of the tests run a few times on a few pixels: compiling them is what costs.
_QUICK = "jax_disable_most_optimizations"
# Folders whose tests take longest come first: a worker that began one of them last would leave the other waiting.
_LONGEST = ("train", "launch", "inference", "benchmark", "models", "parallel", "convert")


def pytest_configure(config: pytest.Config) -> None:
    """One folder of compiled programs for all workers of the session and the processes they start."""
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # as a shell does to what it starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):  # workers inherit it; the first program reads it
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_FLAGS}".strip()
    if not hasattr(config, "workerinput") and _CACHE not in os.environ:
        config.programs = os.environ[_CACHE] = tempfile.mkdtemp(prefix="star-jax-programs-")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = _SHORTEST
    os.environ[_QUICK.upper()] = "1"  # for the processes that tests start
    # Where there are no workers, jax has read the environment before.
    jax.config.update("jax_compilation_cache_dir", os.environ.get(_CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float(_SHORTEST))
    jax.config.update(_QUICK, True)
    collect_garbage_seldom()
    config.option.loadscopereorder = False  # workers take the files in the order below


def pytest_unconfigure(config: pytest.Config) -> None:
    if programs := getattr(config, "programs", None):
        shutil.rmtree(programs, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return _LONGEST.index(folder) if folder in _LONGEST else len(_LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def tiny_checkpoint(request, tmp_path_factory) -> Path:
    """A checkpoint directory of preset `tiny` with fewer levels, one for all workers; tests change copies of it."""
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        folder = folder.parent
    directory = folder / "tiny"
    with (folder / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            random_checkpoint(directory, FEWER_LEVELS)
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
