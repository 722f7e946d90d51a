"""Reports of measurements: environment, throughput and memory, reading them, and comparing two of them."""

import json
import os
from pathlib import Path
from typing import Any

import jax

from star_jax.environment import describe, peak_host_bytes
from star_jax.errors import InputError
from star_jax.parallel.peaks import device_peak_tflops, mfu

# Keys by which rows of two reports are the same measurement.
IDENTITY = ("benchmark", "component", "preset", "frames", "height", "width", "steps", "batch")
# Numbers that are compared by their ratio, in the order of the table.
COMPARED = (
    "seconds_per_step",
    "seconds_per_frame",
    "compile_seconds",
    "tflop_per_step",
    "tflops_per_second",
    "mfu",
    "peak_device_bytes",
    "peak_host_bytes",
)


def describe_run() -> dict[str, Any]:
    """`hardware` (including the accelerator), `versions`, `commit` and `command` of this process."""
    description = describe()
    device = jax.devices()[0]
    accelerator = {
        "backend": jax.default_backend(),
        "device_kind": device.device_kind,
        "num_devices": jax.device_count(),
        "backend_version": device.client.platform_version.replace("\n", " "),
    }
    return description | {"hardware": description["hardware"] | accelerator}


def throughput(
    flops: float, seconds: float, *, num_devices: int, device_peak: float | None
) -> dict[str, Any]:
    """TFLOP/s and MFU achieved by `flops` operations on all devices in `seconds`; see `peaks.mfu`."""
    return {
        "tflop_per_step": flops / 1e12,
        "tflops_per_second": flops / seconds / 1e12,
        "peak_tflops": device_peak_tflops(device_peak),
        "mfu": mfu(flops / seconds, num_devices=num_devices, device_peak=device_peak),
    }


def memory(compiled: jax.stages.Compiled | None) -> dict[str, Any]:
    """Peak memory of one device and of the host, and the source of the device's figure.

    `peak_device_source` is `device` (the allocator's peak of the whole process so far), `compiler` (arguments,
    results and temporaries of the compiled program, if the device keeps no count), or None.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        peak, source = stats["peak_bytes_in_use"], "device"
    elif compiled is not None and (analysis := compiled.memory_analysis()) is not None:
        peak, source = analysis.peak_memory_in_bytes, "compiler"
    else:
        peak, source = None, None
    return {
        "peak_device_bytes": peak,
        "peak_device_source": source,
        "peak_host_bytes": peak_host_bytes(),
    }


def read_report(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a report that `star-jax benchmark --json` wrote.

    Raises:
      InputError: no such file, or not a report.
    """
    try:
        report = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not JSON"
        raise InputError(f"cannot read {path}: {reason}; give a file written by --json") from error
    if not isinstance(report, dict) or "hardware" not in report or "versions" not in report:
        raise InputError(f"{path} is not a benchmark's report; give a file written by --json")
    return report


def rows_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The measurements of a report: its `rows`, or itself."""
    return report.get("rows", [report])


def compare(a: dict[str, Any], b: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Compares the measurements that two reports share.

    Returns:
      One dict per shared measurement, with `name` and (a, b, b / a) for each of `COMPARED` that both have; and one
      line for each difference between the runs (hardware, versions, commit, dtype, ...).

    Raises:
      InputError: the reports share no measurement.
    """
    of_b = {_identity(row): row for row in rows_of(b)}
    pairs = [(row, of_b[_identity(row)]) for row in rows_of(a) if _identity(row) in of_b]
    if not pairs:
        raise InputError("the two reports share no measurement; compare runs of the same component and size")
    rows = []
    for of_a, of_b_row in pairs:
        values = {key: (of_a.get(key), of_b_row.get(key)) for key in COMPARED}
        ratios = {key: (x, y, y / x) for key, (x, y) in values.items() if x and y}
        rows.append({"name": _row_name(of_a), **ratios})
    different = [
        f"{group}.{key}: {a[group].get(key)} against {b[group].get(key)}"
        for group in ("hardware", "versions")
        for key in sorted({*a[group], *b[group]})
        if a[group].get(key) != b[group].get(key)
    ]
    first_a, first_b = pairs[0]
    settings = [
        (key, first_a.get(key), first_b.get(key)) for key in ("dtype", "attention", "mesh", "peak_tflops")
    ]
    settings += [("commit", a.get("commit"), b.get("commit"))]
    return rows, different + [f"{key}: {x} against {y}" for key, x, y in settings if x != y]


def _identity(row: dict[str, Any]) -> tuple:
    return tuple(row.get(key) for key in IDENTITY)


def _row_name(row: dict[str, Any]) -> str:
    component = row.get("component") or row.get("benchmark") or "?"
    return f"{component}, {row.get('frames')} x {row.get('height')}x{row.get('width')}"
