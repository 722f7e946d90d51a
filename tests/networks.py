"""The networks of a configuration by name, for tests that look inside a model."""

from typing import Any

from flax import nnx

from star_jax.config import ArchitectureConfig
from star_jax.models.architectures import build_model


def abstract_component(config: ArchitectureConfig, name: str, **options: Any) -> tuple[nnx.GraphDef, dict]:
    """Structure and shapes of one network; float32 unless `options` say otherwise (see `build_model`)."""
    return build_model(config, **options).split(name)
