"""The shapes in annotations are checked in the tests: a wrong one is refused on the way in and on the way out."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jaxtyping import Array, Float
from shape_checks import check_shapes

from star_jax.ops.attention import dot_product_attention


def test_arguments_that_do_not_fit_each_other():
    q, k = jnp.ones((1, 4, 2, 8)), jnp.ones((1, 4, 2, 16))
    with pytest.raises(jaxtyping.TypeCheckError, match="N K H D"):
        dot_product_attention(q, k, k)


def test_results_and_arrays_of_numpy():
    @jaxtyping.jaxtyped(typechecker=check_shapes)
    def first(x: Float[Array, "B C"], cut: bool) -> Float[Array, " B"]:
        return x[:, 0] if cut else x

    assert first(np.ones((2, 3), np.float32), True).shape == (2,)
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        first(jnp.ones((2, 3)), False)
