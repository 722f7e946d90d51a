"""How the tests check the types and shapes in annotations: by beartype, at every call (see pyproject.toml)."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeCallHintViolation

# An int stands for a float, as everywhere in Python.
_strict = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """A checker for jaxtyping. NumPy's arrays pass for JAX's, since every operation takes either."""
    checked = _strict(function)

    @functools.wraps(function)
    def with_numpy(*args: Any, **kwargs: Any) -> Any:
        try:
            return checked(*args, **kwargs)
        except BeartypeCallHintViolation:
            return checked(*map(_as_jax, args), **{name: _as_jax(value) for name, value in kwargs.items()})

    return with_numpy


def _as_jax(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return jnp.asarray(value)
    return type(value)(map(_as_jax, value)) if type(value) in (list, tuple) else value
