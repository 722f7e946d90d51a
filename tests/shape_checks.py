"""How the tests check the shapes in annotations: by beartype, at every call.

Importing this module has every function whose annotations have shapes checked, in modules that are imported later.
The other functions have types that mypy checks; checking them at every call, too, would take as long as tracing.
"""

import ast
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jaxtyping
import numpy as np
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import _import_hook

PACKAGES = ["star_jax.models", "star_jax.ops", "star_jax.diffusion"]
# An int stands for a float, as everywhere in Python.
_strict = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
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


class _WhereShapesAre(_import_hook.JaxtypingTransformer):
    """Has functions checked that take or return arrays of given shapes, and dataclasses that hold them."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if any(map(_has_shape, [node.returns, *(argument.annotation for argument in arguments)])):
            return super().visit_FunctionDef(node)
        return self.generic_visit(node) or node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        if any(_has_shape(line.annotation) for line in node.body if isinstance(line, ast.AnnAssign)):
            return super().visit_ClassDef(node)
        return self.generic_visit(node) or node


def _has_shape(annotation: ast.AST | None) -> bool:
    """Whether an annotation has such as Float[Array, "B C"] in it."""
    parts = ast.walk(annotation) if annotation else ()
    return any(
        isinstance(part, ast.Subscript)
        and isinstance(part.value, ast.Name)
        and isinstance(getattr(jaxtyping, part.value.id, None), type)
        for part in parts
    )


_import_hook.JaxtypingTransformer = _WhereShapesAre
_import_hook.install_import_hook(PACKAGES, "shape_checks.check_shapes")
