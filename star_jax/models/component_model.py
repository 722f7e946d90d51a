"""A model as a set of networks: their names, their dtypes and the shapes of their weights."""

import abc
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from star_jax.config import ArchitectureConfig
from star_jax.errors import InputError
from star_jax.models.rngs import InitRngs
from star_jax.ops.attention import AttentionKernels

Params = dict[str, Any]  # component -> nested dicts of arrays


@dataclass(frozen=True)
class ComponentModel(abc.ABC):
    """The networks of a model and what each is for: the first part of a `VideoModel`.

    Attributes:
      config: sizes, an instance of `config_type`.
      dtype: dtype of the networks' computation and weights; see `dtype_of`.
      kernels: attention kernel of each site.
      remat: what training keeps of each block; see `star_jax.ops.remat`.
      vae_dtypes: dtypes in which the autoencoder's encoder and decoder compute outside training; a backbone may
        ignore them.
      training: whether the model is trained; an autoencoder that otherwise computes in float32 may then compute in
        `dtype`.
    """

    config: Any
    dtype: jnp.dtype
    kernels: AttentionKernels
    remat: str
    training: bool
    vae_dtypes: tuple[jnp.dtype, jnp.dtype] = (jnp.dtype(jnp.float32),) * 2

    config_type: ClassVar[type[ArchitectureConfig]]

    @property
    @abc.abstractmethod
    def network_components(self) -> tuple[str, ...]:
        """Components whose weights `condition` and `velocity` take."""

    @property
    @abc.abstractmethod
    def autoencoder_components(self) -> tuple[str, ...]:
        """Components whose weights `encode` and `decode` take."""

    @property
    def text_components(self) -> tuple[str, ...]:
        """Components whose weights `encode_text` takes; empty for a model without text."""
        return ()

    @property
    def light_components(self) -> tuple[str, ...]:
        """Components whose weights `decode_light` takes; empty for a model without a light decoder."""
        return ()

    @property
    def components(self) -> tuple[str, ...]:
        """All components: networks, autoencoder, light decoder, text encoder."""
        return (
            self.network_components
            + self.autoencoder_components
            + self.light_components
            + self.text_components
        )

    def dtype_of(self, component: str) -> jnp.dtype:
        """The dtype of a component's computation and weights."""
        del component
        return self.dtype

    @property
    def autoencoder_dtypes(self) -> tuple[jnp.dtype, jnp.dtype]:
        """The dtypes in which the autoencoder's encoder and decoder compute."""
        return (self.dtype_of(self.autoencoder_components[0]),) * 2

    @abc.abstractmethod
    def build(
        self, component: str, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs
    ) -> nnx.Module:
        """Builds one component with newly initialised weights."""

    def abstract(self, component: str) -> Params:
        """Shapes and dtypes of a component's weights, nested dicts of jax.ShapeDtypeStruct; no memory is used.

        Raises:
          InputError: the model has no such component.
        """
        return self.split(component)[1]

    def abstract_params(self, components: Iterable[str] | None = None) -> Params:
        """Shapes and dtypes of several components' weights, by default of all components."""
        return {name: self.abstract(name) for name in (self.components if components is None else components)}

    def bind(self, params: Params, component: str) -> Any:
        """The component as a module that holds its weights from `params`."""
        return nnx.merge(self.split(component)[0], params[component])

    def split(self, component: str) -> tuple[nnx.GraphDef, Params]:
        """A component's structure, and the shapes of its weights; see `abstract` and `bind`.

        Raises:
          InputError: the model has no such component.
        """
        if component not in self.components:
            raise InputError(
                f"preset {self.config.preset!r} has no component {component!r}; it has "
                f"{', '.join(self.components)}"
            )
        return _split(self, component)

    def is_trainable(self, path: str, *, train_base: bool = False) -> bool:
        """Whether training changes a weight.

        Args:
          path: component and path, such as `component/block/conv/kernel`.
          train_base: whether to train the parts that the paper freezes, too.
        """
        del train_base
        return path.split("/", 1)[0] in self.network_components

    def start_leaf(self, component: str, path: str, leaf: np.ndarray) -> np.ndarray:
        """Initial value of a weight, for a model that is trained from scratch.

        Args:
          component: name of the component.
          path: path of the weight in the component.
          leaf: the weight as its layer initialises it.
        """
        del component, path
        return leaf


# Tracing a full-size network takes seconds. Callers do not change the result.
@functools.lru_cache(maxsize=64)
def _split(model: ComponentModel, component: str) -> tuple[nnx.GraphDef, Params]:
    """Structure of a component, and the shapes of its weights."""
    dtype = model.dtype_of(component)

    def build() -> nnx.Module:
        return model.build(component, dtype=dtype, param_dtype=dtype, rngs=InitRngs(0))

    graphdef, state = nnx.split(nnx.eval_shape(build))
    return graphdef, jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), nnx.to_pure_dict(state)
    )
