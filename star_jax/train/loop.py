"""The training loop: data, steps, metrics, checkpoints and validation, for any objective."""

import contextlib
import dataclasses
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
from etils import epath
from jax.sharding import Mesh

from star_jax.data.config import DataConfig
from star_jax.diffusion.noise import noise_key
from star_jax.errors import RunError, StarError
from star_jax.ops.flops import compiled_flops
from star_jax.parallel.mesh import MeshConfig, make_mesh, param_shardings, replicated
from star_jax.parallel.peaks import mfu
from star_jax.parallel.prefetch import DevicePrefetch
from star_jax.progress import progress
from star_jax.train.batches import Batch, TrainBatches
from star_jax.train.checkpoints import TrainCheckpoints
from star_jax.train.config import OptimizerConfig, TrainConfig
from star_jax.train.metrics import MetricWindow, MultiWriter, create_writer
from star_jax.train.objective import Objective
from star_jax.train.optimizer import Optimizer, make_optimizer
from star_jax.train.profiling import ProfilerWindow, StepTimes
from star_jax.train.state import TrainState, Tree, abstract_state, new_state
from star_jax.train.step import jit_train_step, make_train_step, with_shardings
from star_jax.train.workdir import open_workdir

logger = logging.getLogger(__name__)


class RunConfig(Protocol):
    """What the loop reads of a configuration; `ExperimentConfig` is one."""

    train: TrainConfig
    data: DataConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
      step: of the last checkpoint.
      finished: all steps are done; else the run was told to stop (SIGTERM) and can be resumed.
    """

    step: int
    finished: bool


def train(
    objective: Objective,
    config: RunConfig,
    workdir: str | os.PathLike,
    *,
    flops_per_step: float | None = None,
    allow_changed_config: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Trains until config.train.num_steps, from the newest checkpoint of `workdir` where there is one.

    Every process of a run calls it. A resumed run continues exactly as one that was not interrupted would have:
    weights, metrics and data are bit-identical, on as many devices and processes.

    Args:
      objective: what is trained.
      config: a dataclass with the groups `train`, `data`, `optimizer` and `mesh`; recorded whole.
      workdir: see `star_jax.train.workdir`.
      flops_per_step: operations of one update on all devices together, for MFU; by default the compiler's count,
        which includes what is computed twice and counts the body of a loop once.
      allow_changed_config: resume although `workdir` was begun with another configuration.
      quiet: no progress bar.

    Raises:
      InputError: the configuration does not fit the devices, the data or `workdir`.
      RunError: the loss is not finite, the data ended or is bad, or the disk is full.
    """
    root = open_workdir(workdir, config, allow_changed_config=allow_changed_config)
    mesh = make_mesh(config.mesh)
    with _logged(), jax.set_mesh(mesh), contextlib.ExitStack() as stack:
        run = _Run(objective, config, root, mesh, stack, flops_per_step)
        return run.train(quiet=quiet or jax.process_index() > 0)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """What nobody foresaw goes into the log whole: the command line prints one line of it."""
    try:
        yield
    except StarError:
        raise
    except Exception:
        logger.exception("the run ends")
        raise


class _Run:
    """One start of a run: the loaded weights, the program, and what is counted."""

    def __init__(
        self,
        objective: Objective,
        config: RunConfig,
        root: epath.Path,
        mesh: Mesh,
        stack: contextlib.ExitStack,
        flops_per_step: float | None,
    ):
        self.objective, self.config, self.root, self.mesh = objective, config.train, root, mesh
        self.data = TrainBatches(objective, config.data, config.train, mesh)
        self.batches = DevicePrefetch(self.data.loader(), self.data.place)
        stack.callback(self.batches.close)
        self.checkpoints = TrainCheckpoints(root, config.train)
        stack.callback(self.checkpoints.close)
        optimizer = make_optimizer(config.optimizer, config.train.num_steps)
        self.state, self.frozen, meta = self._start(optimizer)
        self.step = int(self.state.step)
        self.key = jax.device_put(noise_key(config.train.seed), replicated(mesh))
        self.program = jit_train_step(
            make_train_step(objective, optimizer, config.train), mesh, jax.eval_shape(lambda: self.state)
        )
        self.compiled, self.flops = False, flops_per_step
        self.window, self.times = MetricWindow(meta.get("window")), StepTimes()
        self.profiler = ProfilerWindow(config.train, root / "profile")
        stack.callback(self.profiler.close)
        self.writer = create_writer(root, self.step) if jax.process_index() == 0 else MultiWriter([])
        stack.callback(self.writer.close)

    def _start(self, optimizer: Optimizer) -> tuple[TrainState, Tree, dict[str, Any]]:
        """Loads the weights; then takes the state from the newest checkpoint, or makes it."""
        trainable, frozen = (
            with_shardings(tree, param_shardings(self.mesh, tree))
            for tree in self.objective.abstract_params()
        )
        decay = self.config.ema_decay
        abstract = abstract_state(trainable, optimizer, ema_decay=decay)
        shardings = param_shardings(self.mesh, abstract)
        params, frozen = self.objective.load(trainable, frozen)
        restored = self.checkpoints.restore(with_shardings(abstract, shardings), self.batches)
        if restored is not None:
            logger.info("resumed at step %d", int(restored[0].step))
            return restored[0], frozen, restored[1]
        init = jax.jit(
            lambda params: new_state(params, optimizer, ema_decay=decay),
            out_shardings=shardings,
            donate_argnums=0,
        )
        return init(params), frozen, {}

    def train(self, *, quiet: bool) -> Outcome:
        """Runs the steps that are left."""
        num_steps, every = self.config.num_steps, self.config.checkpoint_every_steps
        left = num_steps - self.step
        if left <= 0:
            return Outcome(self.step, finished=True)
        with _on_sigterm() as told_to_stop, progress("Training", left, "steps", quiet=quiet) as bar:
            stopping = False
            while self.step < num_steps and not stopping:
                # The next batch is drawn after the checkpoint, so that the data resumes behind the one used.
                self._report(self._update(self._next_batch()))
                bar.advance()
                stopping = told_to_stop() or self.checkpoints.reached_preemption(self.step)
                if stopping or self.step == num_steps or self.step % every == 0:
                    self._save()
        self.checkpoints.wait()
        return Outcome(self.step, finished=self.step >= num_steps)

    def _next_batch(self) -> tuple[Batch, float]:
        """The next batch, and the seconds until it was there."""
        started = time.perf_counter()
        try:
            return next(self.batches), time.perf_counter() - started
        except StopIteration:
            self._save()
            self.checkpoints.wait()
            raise RunError(
                f"the data ended after step {self.step} of {self.config.num_steps} (saved); raise data.num_epochs, "
                "or set it to None"
            ) from None

    def _update(self, batch_and_wait: tuple[Batch, float]) -> dict[str, float]:
        """Runs one step to its end; returns its metrics, of which loss and gradient are finite."""
        batch, waited = batch_and_wait
        self._compile(batch)
        self.profiler.before_step(self.step)
        started = time.perf_counter()
        self.state, metrics = self.program(self.state, self.frozen, batch, self.key)
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.times.add(time.perf_counter() - started + waited, waited)
        self.step += 1
        self.profiler.after_step(self.step)
        for name in ("loss", "grad_norm"):
            if not math.isfinite(values[name]):
                raise RunError(self._not_finite(name, values[name]))
        return values

    def _compile(self, batch: Batch) -> None:
        if self.compiled:
            return
        started = time.perf_counter()
        self.program = self.program.lower(self.state, self.frozen, batch, self.key).compile()
        self.compiled = True
        logger.info("compiled the step in %.1f s", time.perf_counter() - started)
        if self.flops is None and (of_device := compiled_flops(self.program)) is not None:
            self.flops = of_device * self.mesh.size

    def _report(self, metrics: dict[str, float]) -> None:
        """Logs and validates where it is time to."""
        config = self.config
        self.window.add(metrics)
        if self.step % config.log_every_steps == 0 or self.step == config.num_steps:
            self.writer.write_scalars(self.step, {**self.window.take(), **self._speed()})
        if config.validate_every_steps and self.step % config.validate_every_steps == 0:
            self.writer.write_scalars(self.step, self._validate())
        self.writer.flush()

    def _speed(self) -> dict[str, float]:
        seconds, waited = self.times.take()
        speed = {
            "seconds_per_step": seconds,
            "data_wait_seconds": waited,
            "clips_per_second": self.config.batch_size / seconds,
        }
        share = None if self.flops is None else mfu(self.flops / seconds, num_devices=self.mesh.size)
        return speed if share is None else {**speed, "mfu": share}

    def _validate(self) -> dict[str, float]:
        params = self.state.params if self.state.ema_params is None else self.state.ema_params
        image = None
        if jax.process_index() == 0:
            image = self.root / "validation" / f"{self.step:07d}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
        return self.objective.validate(params, self.frozen, self.data.validation(), image)

    def _save(self) -> None:
        if self.step not in self.checkpoints.steps():
            self.checkpoints.save(self.state, self.batches, {"window": self.window.state()})

    def _not_finite(self, name: str, value: float) -> str:
        self.checkpoints.wait()
        good = max(self.checkpoints.steps(), default=None)
        kept = (
            "no checkpoint was saved before it" if good is None else f"the checkpoint of step {good} is good"
        )
        return (
            f"{name} is {value} at step {self.step}; {kept}. Lower optimizer.learning_rate or change train.seed, "
            "and run again with --allow-changed-config"
        )


@contextlib.contextmanager
def _on_sigterm() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM came: the run then saves after the step and ends.

    With several processes JAX's own handler tells all of them (`reached_preemption`), so it is left in place; other
    threads than the main one have no say in signals.
    """
    came = False

    def note(*_: Any) -> None:
        nonlocal came
        came = True

    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)
