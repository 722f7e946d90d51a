"""The training loop: data, steps, metrics, checkpoints and validation, for any objective."""

import contextlib
import dataclasses
import errno
import importlib.util
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import grain
import jax
from etils import epath
from jax.sharding import Mesh

from star_jax.diffusion.noise import noise_key
from star_jax.errors import DiskError, RunError, StarError
from star_jax.parallel.mesh import make_mesh, replicated
from star_jax.parallel.prefetch import prefetch_to_devices
from star_jax.progress import progress
from star_jax.train.bad_steps import BadSteps
from star_jax.train.batches import TrainBatches
from star_jax.train.checkpoints import TrainCheckpoints
from star_jax.train.curves import write_curves
from star_jax.train.objective import Objective
from star_jax.train.optimizer import make_optimizer
from star_jax.train.profiling import ProfilerWindow
from star_jax.train.speed import Speed
from star_jax.train.stages import Stages
from star_jax.train.stall import StallWatch
from star_jax.train.start import RunConfig, compile_step, load_state, program_flops
from star_jax.train.state import TrainState, Tree
from star_jax.train.step_log import StepLog
from star_jax.train.stopping import stop_requests
from star_jax.train.turns import turns_of
from star_jax.train.workdir import VALIDATION, held_workdir, open_workdir

logger = logging.getLogger(__name__)

# A disk is full or gone, a quota is used up, or a file has become too large.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
      step: step of the last checkpoint.
      finished: whether all steps are done; otherwise SIGTERM stopped the run, and it can be resumed.
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
    """Trains until config.train.num_steps, starting from the newest checkpoint of `workdir` if there is one.

    Every process of a run calls this function. A resumed run continues exactly as an uninterrupted one would have:
    with the same number of devices and processes, its weights, metrics and data are bit-identical.

    Args:
      objective: the training task.
      config: dataclass with the groups `train`, `data`, `optimizer` and `mesh`; all groups are recorded.
      workdir: see `star_jax.train.workdir`.
      flops_per_step: operations of one update on all devices together, for MFU. The default is the compiler's
        count, which includes recomputation and counts the body of a loop once.
      allow_changed_config: resume although `workdir` was begun with another configuration.
      quiet: show no progress bar.

    Raises:
      InputError: the configuration does not fit the devices, the data or `workdir`.
      RunError: the loss is not finite, the data ended or is bad, or the disk is full.
    """
    mesh = make_mesh(config.mesh)
    with held_workdir(workdir), _explained(workdir), jax.set_mesh(mesh):
        root = open_workdir(workdir, config, allow_changed_config=allow_changed_config)
        return _run(objective, config, root, mesh, flops_per_step, quiet=quiet or jax.process_index() > 0)


@contextlib.contextmanager
def _explained(workdir: str | os.PathLike) -> Iterator[None]:
    """Logs the traceback of an unexpected exception, because the command line prints only one line.

    Raises:
      DiskError: the run cannot write, for example a line of metrics or a picture.
    """
    try:
        yield
    except StarError:
        raise
    except Exception as error:
        logger.exception("the run ends with an unexpected error")
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise DiskError(
                f"cannot write to --workdir {workdir}: {error.strerror}; free disk space or raise the quota, then "
                "run the same command again: it resumes at the newest checkpoint"
            ) from error
        raise


def _run(
    objective: Objective, config: RunConfig, root: epath.Path, mesh: Mesh, flops: float | None, *, quiet: bool
) -> Outcome:
    """Starts or resumes a run: loads everything, and trains until the last step.

    The order within the loop makes a resumed run exact:

    1. The next batch is drawn AFTER the last save, so that a checkpoint has the position after its own batch.
    2. Metrics are checked BEFORE anything is logged or saved, so that every checkpoint is good.
    3. The log gets a step's metrics BEFORE the save, because its sums since the last line are part of a checkpoint.
    4. The save comes LAST, so that a stopped run leaves a whole number of complete steps.
    """
    settings, stages = config.train, Stages()
    num_steps = settings.num_steps
    data = TrainBatches(objective, config.data, settings, mesh)
    optimizer = make_optimizer(config.optimizer, num_steps, turns_of(objective))
    with (
        contextlib.closing(prefetch_to_devices(data.loader(), data.place)) as batches,
        contextlib.closing(TrainCheckpoints(root, settings)) as checkpoints,
    ):
        state, frozen, meta = load_state(
            objective, optimizer, settings, mesh, lambda abstract: checkpoints.restore(abstract, batches)
        )
        step = int(state.step)
        if step >= num_steps:
            return Outcome(step, finished=True)
        key = jax.device_put(noise_key(settings.seed), replicated(mesh))
        train_step = compile_step(objective, optimizer, settings, mesh, (state, frozen, key))
        speed = Speed(config, stages, flops or program_flops(train_step, mesh))
        bad_steps = BadSteps(settings, checkpoints, meta)
        with (
            StepLog(root, settings, step, meta, speed) as log,
            ProfilerWindow(settings, root / "profile") as profiler,
            stop_requests(checkpoints) as told_to_stop,
            StallWatch(root, settings.stall_seconds, stages),
            progress("Training", num_steps - step, "steps", quiet=quiet) as bar,
        ):
            stopping = False
            while step < num_steps and not stopping:
                begun = time.perf_counter()
                stages.at("waiting for data", step + 1)
                batch = next(batches, None)
                if batch is None:
                    raise _data_ended(step, num_steps, checkpoints, state, batches, meta)
                waited = time.perf_counter() - begun

                stages.at("computing", step + 1)
                profiler.before_step(step)
                state, metrics = train_step(state, frozen, batch, key)
                metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
                step += 1
                profiler.after_step(step)

                skipped = bad_steps.is_bad(step, metrics)
                log.add(step, None if skipped else metrics, time.perf_counter() - begun, waited)
                meta = log.state() | bad_steps.state()
                if settings.validate_every_steps and step % settings.validate_every_steps == 0:
                    stages.at("validating", step)
                    log.write(step, _validate(objective, state, frozen, data, root, step))

                bar.advance()
                stages.at("saving", step)
                stopping = told_to_stop(step)
                if stopping or step == num_steps or step % settings.checkpoint_every_steps == 0:
                    checkpoints.save(state, batches, meta)
            checkpoints.wait()
            logger.info("time since the start: %s", stages.summary())
    if settings.curves:
        _draw_curves(root, step)
    return Outcome(step, finished=step >= num_steps)


def _data_ended(
    step: int,
    num_steps: int,
    checkpoints: TrainCheckpoints,
    state: TrainState,
    batches: grain.DatasetIterator,
    meta: dict[str, Any],
) -> RunError:
    """Saves the last step; returns the error to raise."""
    if step not in checkpoints.steps():
        checkpoints.save(state, batches, meta)
    checkpoints.wait()
    return RunError(
        f"the data ended after step {step} of {num_steps} (saved); raise data.num_epochs, or set it to None"
    )


def _validate(
    objective: Objective,
    state: TrainState,
    frozen: Tree,
    data: TrainBatches,
    root: epath.Path,
    step: int,
) -> dict[str, float]:
    """Validates the averaged weights if the run keeps an average; writes a picture to WORKDIR/validation."""
    image = None
    if jax.process_index() == 0:
        image = root / VALIDATION / f"{step:07d}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
    params = state.params if state.ema_params is None else state.ema_params
    return objective.validate(params, frozen, data.validation(), image)


def _draw_curves(root: epath.Path, step: int) -> None:
    """Writes the page of curves if matplotlib is installed."""
    if jax.process_index() == 0 and importlib.util.find_spec("matplotlib"):
        write_curves(root, f"{root.name}: {step} steps")
