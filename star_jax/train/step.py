"""One update of the weights, as a pure function for any objective."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.sharding import Mesh

from star_jax.ops.platform import target_platform
from star_jax.parallel.mesh import batch_shardings, replicated
from star_jax.parallel.weights import constrain_params, param_shardings
from star_jax.train.config import TrainConfig
from star_jax.train.objective import Objective
from star_jax.train.optimizer import Optimizer
from star_jax.train.small_weights import join_small
from star_jax.train.state import TrainState, Tree, keep_idle
from star_jax.train.turns import Alternating, turns_of

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Tree, Batch, jax.Array], tuple[TrainState, Metrics]]


def make_train_step(objective: Objective, optimizer: Optimizer, config: TrainConfig) -> TrainStep:
    """Builds step(state, frozen, batch, key) -> (state, metrics).

    `key` is the key of the run; the step folds its own number into it. The metrics are those of the objective,
    `loss`, `grad_norm` (before clipping) and `learning_rate`. With train.skip_bad_steps, a bad step changes only
    the number of the step. The step is a pure function; `jit_train_step` compiles it.

    If parts of the weights take turns, a step computes and updates only the parts whose turn it is; metrics of
    the other turns are NaN.
    """
    turns = turns_of(objective)

    def step(state: TrainState, frozen: Tree, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        kind = None if turns is None else turns.kind_at(state.step)
        gradients, metrics = _gradients(
            objective, config.grad_accumulation, state.params, frozen, batch, key, kind
        )
        updates, opt_state = optimizer.transform.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = optax.incremental_update(params, ema_params, 1 - config.ema_decay)
        metrics |= {
            # Joined as in the optimizer, whose clipping needs the same norm: it is computed once.
            "grad_norm": optax.global_norm(join_small(gradients)),
            "learning_rate": jnp.asarray(optimizer.learning_rate(state.step), jnp.float32),
        }
        updated = TrainState(state.step + 1, params, ema_params, opt_state)
        if turns is not None:
            updated = keep_idle(turns, state, updated)
        if config.skip_bad_steps:
            good = _is_good(metrics, config.largest_grad_norm)
            unchanged = dataclasses.replace(state, step=updated.step)
            updated = jax.tree.map(lambda new, old: jnp.where(good, new, old), updated, unchanged)
        return updated, metrics

    return step


def _is_good(metrics: Metrics, largest_grad_norm: float | None) -> jax.Array:
    """The rule of `star_jax.train.bad_steps`, computed on the devices."""
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    return finite if largest_grad_norm is None else finite & (metrics["grad_norm"] <= largest_grad_norm)


# A product with a weight that is sharded over devices gathers the weight first. The compiler's alternative for
# large activations, a loop of partial products, takes up to eight times the memory (docs/benchmarks.md).
_TPU_OPTIONS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


def jit_train_step(step: TrainStep, mesh: Mesh, abstract_state: TrainState) -> Any:
    """Jits the step for a mesh and donates the state's memory. Call and lower the result under `jax.set_mesh`."""
    shardings = param_shardings(mesh, abstract_state)
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
        compiler_options=_TPU_OPTIONS if target_platform() == "tpu" else None,
    )


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """Adds shardings to shapes, for loading, restoring or lowering."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)


def abstract_arguments(
    objective: Objective, abstract_state: TrainState, batch_size: int, mesh: Mesh
) -> tuple[TrainState, Tree, Batch, jax.ShapeDtypeStruct]:
    """Shapes and shardings of the step's arguments, for lowering it without memory."""
    frozen = objective.abstract_params()[1]
    batch = objective.abstract_batch(batch_size)
    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    return (
        with_shardings(abstract_state, param_shardings(mesh, abstract_state)),
        with_shardings(frozen, param_shardings(mesh, frozen)),
        with_shardings(batch, batch_shardings(mesh, batch)),
        jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh)),
    )


def _gradients(
    objective: Objective,
    pieces: int,
    params: Tree,
    frozen: Tree,
    batch: Batch,
    key: jax.Array,
    kind: jax.Array | None,
) -> tuple[Tree, Metrics]:
    """Gradient of the mean loss over the batch, computed in `pieces` one after the other.

    All pieces get the same key: an objective's draws depend on the sample, not on its place in the batch.
    """

    def of_piece(piece: Batch) -> tuple[Tree, Metrics]:
        if kind is None:
            gradients, metrics = _gradient(objective.loss, params, frozen, piece, key)
        else:
            gradients, metrics = _gradient_of_turn(objective, kind, params, frozen, piece, key)
        return constrain_params(gradients), metrics

    if pieces == 1:
        return of_piece(batch)

    def add(total, piece):
        return jax.tree.map(jnp.add, total, of_piece(piece)), None

    cut = jax.tree.map(lambda x: _cut(x, pieces), batch)
    first = jax.tree.map(lambda x: x[0], cut)
    rest = jax.tree.map(lambda x: x[1:], cut)
    total, _ = jax.lax.scan(add, of_piece(first), rest)
    return jax.tree.map(lambda x: x / pieces, total)


def _gradient(loss: Callable, params: Tree, *arguments: Any) -> tuple[Tree, Metrics]:
    """Gradient of `loss` with respect to its first argument, and its metrics, including the loss."""

    def with_metrics(params: Tree) -> tuple[jax.Array, Metrics]:
        value, metrics = loss(params, *arguments)
        return value, {"loss": value, **metrics}

    return jax.grad(with_metrics, has_aux=True)(params)


def _gradient_of_turn(objective: Any, kind: jax.Array, params: Tree, *arguments: Any) -> tuple[Tree, Metrics]:
    """The gradient of the loss of a turn; each branch has its own, so that memory holds one kind's activations.

    Metrics of the other kinds are NaN.
    """
    alternating: Alternating = objective
    branches = [
        partial(_gradient, partial(alternating.loss_of_turn, kind)) for kind in alternating.turns.kinds
    ]
    names = {name for branch in branches for name in jax.eval_shape(branch, params, *arguments)[1]}

    def of_kind(branch: Callable) -> Callable:
        def run(params: Tree, *arguments: Any) -> tuple[Tree, Metrics]:
            gradients, metrics = branch(params, *arguments)
            return gradients, dict.fromkeys(names, jnp.float32(jnp.nan)) | metrics

        return run

    return jax.lax.switch(kind, [of_kind(branch) for branch in branches], params, *arguments)


def _cut(x: jax.Array, pieces: int) -> jax.Array:
    """[B, ...] -> [pieces, B / pieces, ...]; every piece has rows of every device's share."""
    return rearrange(x, "(b pieces) ... -> pieces b ...", pieces=pieces)
