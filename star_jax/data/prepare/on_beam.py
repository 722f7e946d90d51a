"""Prepares a dataset in an Apache Beam pipeline: on this machine, or on Dataflow, Flink or Spark.

The unit of work is a shard, as in `star_jax.data.prepare.write`; shards and manifest are the same.
"""

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from star_jax.data.prepare.plan import Plan, PrepareConfig
from star_jax.data.prepare.shards import Encoder, is_written, write_shard
from star_jax.data.prepare.write import begin, finish, judge
from star_jax.errors import InputError, RunError, first_line
from star_jax.progress import Reporter, progress

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    raise InputError(
        f"--beam needs Apache Beam ({error}); run pip install 'star_jax[beam]', or leave --beam out"
    ) from error

logger = logging.getLogger(__name__)

_MOST_FAILURES = 3  # number of pipelines in a row that may end without writing a shard
_SECONDS_BETWEEN_LOOKS = 1.0


def prepare_on_beam(
    config: PrepareConfig,
    make_encoder: Callable[[], Encoder],
    flags: Sequence[str],
    *,
    quiet: bool = True,
) -> dict[str, Any] | None:
    """Writes the missing shards in a pipeline, then finishes the dataset.

    A pipeline that ends early (a worker was killed, and the runner does not start it again) is started again with
    the shards that are still missing, as long as pipelines make progress.

    Args:
      config: the dataset to prepare.
      make_encoder: makes the encoder, on this machine and on every worker; picklable.
      flags: Beam's flags, such as --runner=FlinkRunner.
      quiet: whether to show no progress.

    Returns:
      the manifest.

    Raises:
      InputError: as in `star_jax.data.prepare.write.prepare`, or Beam rejects its flags.
      RunError: too many clips are bad, or pipelines end again and again.
    """
    _parse(flags)
    encoder = make_encoder()
    work = begin(config, encoder)
    failures = 0
    with progress("Preparing", len(work.all_shards()), "shards", quiet=quiet) as bar:
        left = _missing(config, work)
        bar.advance(len(work.all_shards()) - len(left))
        while left:
            before = len(left)
            write = _WriteShard(config, make_encoder, work.num_shards, work.num_clips)
            left, failure = _run(_Pipeline(write, _tasks(work, left), flags), config, work, left, bar)
            judge(config, work.num_shards, work.num_clips)
            failures = failures + 1 if len(left) == before else 0
            if left and failures == _MOST_FAILURES:
                raise RunError(
                    f"the pipeline ended {failures} times without writing any of {len(left)} shards ({failure}); "
                    "the shards already written stay, and the same command continues"
                )
            if left:
                logger.warning(
                    "the pipeline ended early (%s); starting it again for %d shards", failure, len(left)
                )
    return finish(config, encoder, work)


def _parse(flags: Sequence[str]) -> PipelineOptions:
    try:
        return PipelineOptions(list(flags))
    except SystemExit as error:  # Beam's parser has printed the reason
        raise InputError(
            f"Beam rejects the flags {' '.join(flags)!r}; give --runner=... and the flags of that runner"
        ) from error


def _missing(config: PrepareConfig, work: Plan) -> list[tuple[str, int]]:
    return [shard for shard in work.all_shards() if not is_written(config, *shard)]


def _tasks(work: Plan, shards: Sequence[tuple[str, int]]) -> list[tuple[str, int, list]]:
    return [(split, index, work.shards[split][index]) for split, index in shards]


def _run(
    pipeline: "_Pipeline", config: PrepareConfig, work: Plan, left: list[tuple[str, int]], bar: Reporter
) -> tuple[list[tuple[str, int]], str]:
    """Runs a pipeline in a separate process.

    Beam's local runner waits for ever for a worker that was killed, whereas a process can be ended. Beam and its
    workers then write hundreds of lines, which go to a file.

    Returns:
      the shards that are still missing, and why the pipeline ended early ("" if it did not).
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    number, log = tempfile.mkstemp(prefix="star_jax_beam_", suffix=".log")
    os.close(number)
    process = context.Process(target=pipeline.run, args=(theirs, log))
    process.start()
    theirs.close()
    try:
        while process.is_alive():
            process.join(_SECONDS_BETWEEN_LOOKS)
            before, left = len(left), _missing(config, work)
            bar.advance(before - len(left))
    finally:
        process.terminate()
    if not left:
        os.unlink(log)
        return left, ""
    with contextlib.suppress(EOFError):
        return left, f"{ours.recv()}; log in {log}"
    return left, f"exit code {process.exitcode}; log in {log}"


@dataclasses.dataclass(frozen=True)
class _Pipeline:
    """A pipeline that writes shards; each task is (split, index, clips)."""

    write: "_WriteShard"
    tasks: list[tuple[str, int, list]]
    flags: Sequence[str]

    def run(self, failures: Any, log: str) -> None:
        """Runs to the end; if a worker is lost, sends one line through `failures` and ends the process."""
        with open(log, "w") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())  # the workers inherit it

        def fail(error: BaseException | None) -> None:
            failures.send(first_line(error) if error else "unknown")
            os._exit(1)  # other threads may wait for ever

        threading.excepthook = lambda args: fail(args.exc_value)
        pipeline = beam.Pipeline(options=_parse(self.flags))
        shards = pipeline | "Shards" >> beam.Create(self.tasks) | "Spread" >> beam.Reshuffle()
        shards | "Write" >> beam.ParDo(self.write)
        try:
            pipeline.run().wait_until_finish()
        except Exception as error:  # runners have no common error class
            fail(error)


class _WriteShard(beam.DoFn):
    """Writes one shard; it has no output, because the note beside the shard records that it is complete."""

    def __init__(
        self,
        config: PrepareConfig,
        make_encoder: Callable[[], Encoder],
        num_shards: dict[str, int],
        num_clips: int,
    ):
        self._config, self._make_encoder = config, make_encoder
        self._num_shards, self._num_clips = num_shards, num_clips

    def setup(self) -> None:
        import cv2

        cv2.setNumThreads(1)  # the workers are the parallelism
        self._encoder = self._make_encoder()

    def process(self, task: tuple[str, int, list]) -> Iterator[None]:
        split, index, clips = task
        if not is_written(self._config, split, index):  # a runner may try a shard twice
            entry = write_shard(
                self._config, self._encoder, self._num_shards, split, index, clips, _Uncounted()
            )
            if entry["skipped"]:
                judge(self._config, self._num_shards, self._num_clips)
        return iter(())


class _Uncounted(Reporter):
    def advance(self, n: int = 1) -> None:
        pass
