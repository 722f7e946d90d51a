"""Prints reports of speed and memory as tables on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from star_jax.files import bytes_text

_LINES = (
    ("median step", "seconds_per_step", "{:.4g} s"),
    ("spread (slowest - fastest)", "spread", "{:.1%}"),
    ("compilation", "compile_seconds", "{:.3g} s"),
    ("per frame", "seconds_per_frame", "{:.4g} s"),
    ("frames per second", "frames_per_second", "{:.4g}"),
    ("operations per step", "tflop_per_step", "{:.4g} TFLOP"),
    ("the compiler's count", "tflop_compiled", "{:.4g} TFLOP"),
    ("achieved", "tflops_per_second", "{:.4g} TFLOP/s"),
    ("peak of one device", "peak_tflops", "{:.4g} TFLOP/s"),
    ("MFU", "mfu", "{:.1%}"),
)


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Prints one table per measurement; unknown values are left out."""
    for row in rows:
        table = Table(title=_title(row), show_header=False, title_justify="left")
        table.add_column()
        table.add_column(justify="right")
        for label, key, form in _LINES:
            if row.get(key) is not None:
                table.add_row(label, form.format(row[key]))
        for stage, seconds in (row.get("stage_seconds") or {}).items():
            table.add_row(f"  {stage}", f"{seconds:.4g} s")
        if row.get("peak_device_bytes") is not None:
            source = row["peak_device_source"]
            table.add_row(f"peak device memory (by {source})", bytes_text(row["peak_device_bytes"]))
        if row.get("peak_host_bytes") is not None:
            table.add_row("peak host memory", bytes_text(row["peak_host_bytes"]))
        Console().print(table)
        if "plan" in row:
            print(row["plan"])


def _title(row: dict[str, Any]) -> str:
    parts = [f"{row['preset']} {row['component']}: {row['frames']} x {row['height']}x{row['width']}"]
    parts += [f"{row[key]} {key}" for key in ("steps", "batch") if row.get(key) is not None]
    return ", ".join([*parts, row["dtype"], f"attention {row['attention']}"])
