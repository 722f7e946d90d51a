"""Rematerialisation: activations that the backward pass recomputes instead of reading from memory."""

from collections.abc import Callable
from typing import Any

import jax

from star_jax.errors import InputError
from star_jax.ops.platform import COUNTED, target_platform

REMAT_POLICIES = ("none", "dots", "attention", "full")
# Name that flash attention kernels give to the residuals of their backward pass: output and log-sum-exp.
ATTENTION_RESIDUALS = "attention_residuals"


def rematerialise(fn: Callable[..., Any], policy: str) -> Callable[..., Any]:
    """Wraps a block of a network, such as one residual block or transformer; its results do not change.

    Args:
      fn: the block; arrays that it closes over (its weights) are kept, not copied.
      policy: `none` keeps every intermediate; `full` keeps only the block's inputs and runs it again; `dots` also
        keeps the results of its linear layers; `attention` also keeps the outputs of flash attention (`splash`;
        other kernels run again), which at many tokens are the most expensive to recompute for their size.

    Raises:
      InputError: no policy of that name.
    """
    if policy not in REMAT_POLICIES:
        raise InputError(f"remat policy is {policy!r}; choose one of {', '.join(REMAT_POLICIES)}")
    if policy == "none" or target_platform() == COUNTED:
        return fn
    saved = {
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        "attention": jax.checkpoint_policies.save_only_these_names(ATTENTION_RESIDUALS),
    }
    return jax.checkpoint(fn, policy=saved.get(policy))
