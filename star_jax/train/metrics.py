"""Writers of metrics to the console, JSON lines, TensorBoard and Weights & Biases.

They have the interface of clu's MetricWriter, but do not import TensorFlow as clu's writers do.
"""

import hashlib
import importlib.util
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from etils import epath

from star_jax.errors import InputError
from star_jax.files import appearing, is_url

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


class MetricWriter(Protocol):
    """Writes scalars of a step: the part of clu.metric_writers.MetricWriter that training needs."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the values of one step."""

    def flush(self) -> None:
        """Makes everything written so far readable for others."""

    def close(self) -> None:
        """Closes the writer."""


def create_writer(workdir: epath.Path, first_step: int, wandb: str | None = None) -> MetricWriter:
    """Makes all available writers; TensorBoard needs tensorboardX.

    Args:
      workdir: directory of metrics.jsonl and tensorboard/.
      first_step: number of steps done so far. Lines of later steps, which the run will write again, are dropped.
      wandb: Weights & Biases project to write to as well.

    Raises:
      InputError: `wandb` is given, but the library is not installed.
    """
    writers: list[MetricWriter] = [ConsoleWriter(), JsonLinesWriter(workdir / METRICS_FILE, first_step)]
    if importlib.util.find_spec("tensorboardX"):
        writers.append(TensorBoardWriter(workdir / "tensorboard", first_step))
    if wandb is not None:
        writers.append(WandbWriter(workdir, wandb))
    return MultiWriter(writers)


class MultiWriter:
    """Writes to several writers."""

    def __init__(self, writers: Sequence[MetricWriter]):
        self._writers = writers

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class ConsoleWriter:
    """Prints one line per step to standard output, without the shares of the time (except goodput)."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        shown = {name: value for name, value in scalars.items() if not name.endswith("_share")}
        values = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        print(f"step {step}  {values}", flush=True)

    def flush(self) -> None:
        """Does nothing: every line is flushed when it is written."""

    def close(self) -> None:
        """Does nothing: standard output stays open."""


class JsonLinesWriter:
    """Writes one JSON object per call: {"step": 10, "loss": ...}. Values that are not finite become null."""

    def __init__(self, path: epath.Path, first_step: int):
        self._path = path
        lines = _lines_before(path, first_step) if path.exists() else []
        with appearing(path) as partial:
            partial.write_text("".join(line + "\n" for line in lines))
        self._remote = is_url(path)
        self._lines = lines

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        values = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        line = json.dumps({"step": step, **values})
        if self._remote:  # object stores cannot append
            self._lines.append(line)
            self._path.write_text("\n".join(self._lines) + "\n")
            return
        with self._path.open("a") as file:
            file.write(line + "\n")

    def flush(self) -> None:
        """Does nothing: no line is buffered."""

    def close(self) -> None:
        """Does nothing: no file is open between lines."""


def _lines_before(path: epath.Path, first_step: int) -> list[str]:
    """Complete lines of steps up to the resumed one; the last line may be cut off if a process was killed."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            logger.warning("dropped an incomplete line in %s", path)
            continue
        if values["step"] <= first_step:
            kept.append(line)
    return kept


class TensorBoardWriter:
    """Writes event files through tensorboardX.

    tensorboardX's SummaryWriter writes in a thread, which dies silently when the disk is full; then its queue fills
    up, and the run waits for ever. This class writes in the caller's thread.
    """

    def __init__(self, directory: epath.Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._event = event_pb2.Event
        directory.mkdir(parents=True, exist_ok=True)
        self._writer: Any = EventsWriter(str(directory / "events"))
        if first_step:  # drops events of later steps, which the run will write again
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=first_step + 1, session_log=start)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboardX import summary

        for name, value in scalars.items():
            self._write(step=step, summary=summary.scalar(name, value))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _write(self, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), **content))


class WandbWriter:
    """Writes to Weights & Biases; a resumed run continues the same run there.

    Raises:
      InputError: the library is not installed.
    """

    def __init__(self, workdir: epath.Path, project: str):
        try:
            import wandb
        except ImportError as error:
            raise InputError("train.wandb needs wandb; run pip install 'star_jax[wandb]'") from error
        self._run: Any = wandb.init(
            project=project,
            name=workdir.name,
            id=hashlib.sha256(str(workdir).encode()).hexdigest()[:16],
            resume="allow",
            dir=None if is_url(workdir) else str(workdir),
            settings=wandb.Settings(silent=True),
        )

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def flush(self) -> None:
        """Does nothing: the library sends in the background."""

    def close(self) -> None:
        self._run.finish()


class MetricWindow:
    """Sums metrics between two lines of the log; its state is saved, so that a resumed run logs the same means.

    A metric that is NaN was not measured at that step; its mean is over the other steps.
    """

    def __init__(self, state: Mapping[str, Any] | None = None):
        state = state or {}
        self.count: int = state.get("count", 0)
        self.sums: dict[str, float] = dict(state.get("sums", {}))
        self.missing: dict[str, int] = dict(state.get("missing", {}))  # number of steps without each metric
        self.skipped: int = state.get("skipped", 0)

    def add(self, metrics: Mapping[str, float]) -> None:
        self.count += 1
        for name, value in metrics.items():
            if math.isnan(value):
                self.missing[name] = self.missing.get(name, 0) + 1
            else:
                self.sums[name] = self.sums.get(name, 0.0) + value

    def skip(self) -> None:
        """Counts a skipped step, without its metrics."""
        self.skipped += 1

    def take(self) -> dict[str, float]:
        """Means since the last call, and the number of skipped steps if there were any."""
        means = {name: total / (self.count - self.missing.get(name, 0)) for name, total in self.sums.items()}
        if self.skipped:
            means["skipped_steps"] = self.skipped
        self.count, self.sums, self.missing, self.skipped = 0, {}, {}, 0
        return means

    def state(self) -> dict[str, Any]:
        """The state as JSON values, for the constructor."""
        state: dict[str, Any] = {"count": self.count, "sums": self.sums}
        counts = {"missing": self.missing, "skipped": self.skipped}
        return state | {name: value for name, value in counts.items() if value}
