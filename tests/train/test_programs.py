"""Programs that a process keeps: a second run compiles nothing, and only the very same program is taken again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import count_compilations
from toy_training import ToyObjective, toy_config

from star_jax.parallel.mesh import MeshConfig, make_mesh
from star_jax.train import programs
from star_jax.train.loop import Outcome, train
from star_jax.train.programs import compile_or_find


@pytest.fixture
def mesh():
    return make_mesh(MeshConfig())


def run(workdir, objective=None, **changes) -> Outcome:
    return train(objective or ToyObjective(), toy_config(**changes), workdir, quiet=True)


def test_a_second_run_compiles_nothing(tmp_path):
    run(tmp_path / "first", num_steps=1)
    with count_compilations() as compiled:
        assert run(tmp_path / "second", num_steps=1) == Outcome(1, finished=True)
        assert run(tmp_path / "first", num_steps=2) == Outcome(2, finished=True)  # goes on where it ended
    assert compiled == []
    with count_compilations() as compiled:
        run(tmp_path / "other", num_steps=1, grad_accumulation=2)
    assert len(compiled) == 1  # its step; the fresh state is made as before


class Halved(ToyObjective):
    """A loss that differs by a number."""

    factor = 0.5

    def loss(self, *args):
        loss, metrics = super().loss(*args)
        return self.factor * loss, metrics


def test_the_same_objective_with_another_number_is_another_program(tmp_path):
    """Nothing in the configuration or in the type tells the two runs apart."""
    losses = []
    for factor in (0.5, 0.25):
        objective = Halved()
        objective.factor = factor
        run(tmp_path / str(factor), objective, num_steps=1, log_every_steps=1)
        losses.append(json.loads((tmp_path / str(factor) / "metrics.jsonl").read_text())["loss"])
    assert losses[0] == pytest.approx(2 * losses[1], rel=1e-5)


def test_large_constants_are_part_of_a_program(mesh):
    def product(seed):
        matrix = np.random.default_rng(seed).standard_normal((64, 64)).astype(np.float32)
        return jax.jit(lambda x: x @ jnp.asarray(matrix)).lower(jnp.ones((2, 64)))

    first = compile_or_find(product(0), mesh)
    assert compile_or_find(product(0), mesh) is first
    assert compile_or_find(product(1), mesh) is not first


def test_a_program_that_calls_back_is_never_taken_again(mesh):
    heard = []
    for name in ("first", "second"):

        def loud(x, name=name):
            jax.debug.callback(lambda: heard.append(name))
            return x + 1

        compile_or_find(jax.jit(loud).lower(jnp.ones(2)), mesh)(jnp.ones(2))
        jax.effects_barrier()
    assert heard == ["first", "second"]


def test_only_the_last_programs_are_kept(mesh, monkeypatch):
    monkeypatch.setattr(programs, "_KEPT", 2)
    lowered = [jax.jit(lambda x, i=i: x + i).lower(jnp.ones(2)) for i in range(3)]
    first, second, third = (compile_or_find(program, mesh) for program in lowered)
    assert compile_or_find(lowered[1], mesh) is second and compile_or_find(lowered[2], mesh) is third
    assert compile_or_find(lowered[0], mesh) is not first
