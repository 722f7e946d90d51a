"""Scores as a table in the terminal."""

import sys

from rich.console import Console
from rich.table import Table

from star_jax.evaluation.metrics.metric import Metric
from star_jax.evaluation.scores import ClipScores, Means, Report, difference


def print_table(report: Report) -> None:
    """Prints means per clip and over clips: one result with its baseline, or several results with their wins."""
    names = [name for name in report.scores if name != report.baseline]
    table = _of_one(report, names[0]) if len(names) == 1 else _of_several(report)
    # A pipe or a log has no width, and rich's default of 80 columns would fold the rows.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def to_markdown(report: Report) -> str:
    """A Markdown table of means over clips, the best in bold, with the number of clips that each result wins."""
    means = {name: report.means(name) for name in report.scores}
    best = {name: _best(name, metric, list(means.values())) for name, metric in report.metrics.items()}
    wins = report.wins()
    rows = [["result", *(metric.title for metric in report.metrics.values())], ["---"] * (len(best) + 1)]
    for name, mean in means.items():
        cells = []
        for key, metric in report.metrics.items():
            cell = text(metric, mean[key])
            cell = f"**{cell}**" if mean[key] is not None and mean[key] == best[key] else cell
            cells.append(f"{cell} ({wins[key][name]})" if len(means) > 1 else cell)
        rows.append([name, *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _of_one(report: Report, name: str) -> Table:
    baseline = report.baseline
    table = Table(title=f"results (difference to {baseline})" if baseline else None)
    table.add_column("clip")
    table.add_column("frames", justify="right")
    _add_metrics(table, report)
    lows = report.scores[baseline] if baseline else [None] * len(report.scores[name])
    for clip, low in zip(report.scores[name], lows, strict=True):
        change = difference(clip.means(), low.means()) if low is not None else {}
        table.add_row(clip.name, str(len(clip.frames)), *_cells(report, clip.means(), change))
    table.add_section()
    change = difference(report.means(name), report.means(baseline)) if baseline else {}
    table.add_row("mean", "", *_cells(report, report.means(name), change))
    if baseline:
        table.add_row(f"{baseline}, mean", "", *_cells(report, report.means(baseline)))
    return table


def _of_several(report: Report) -> Table:
    """A section for each clip, the best in bold, then means with the number of clips that each result wins."""
    table = Table(title="means over frames; last section: means over clips (clips in which it is the best)")
    table.add_column("clip")
    table.add_column("result")
    _add_metrics(table, report)
    for clips in zip(*report.scores.values(), strict=True):
        _add_section(table, report, clips)
    wins = report.wins()
    for name in report.scores:
        won = {metric: f" ({wins[metric][name]})" for metric in report.metrics}
        means = report.means(name)
        table.add_row("mean", name, *[text(m, means[k]) + won[k] for k, m in report.metrics.items()])
    return table


def _add_section(table: Table, report: Report, clips: tuple[ClipScores, ...]) -> None:
    means = [clip.means() for clip in clips]
    best = {name: _best(name, metric, means) for name, metric in report.metrics.items()}
    for index, (result, mean) in enumerate(zip(report.scores, means, strict=True)):
        cells = []
        for name, metric in report.metrics.items():
            cell = text(metric, mean[name])
            cells.append(
                f"[bold]{cell}[/bold]" if mean[name] is not None and mean[name] == best[name] else cell
            )
        table.add_row(clips[0].name if index == 0 else "", result, *cells)
    table.add_section()


def _best(name: str, metric: Metric, means: list[Means]) -> float | None:
    values = [value for mean in means if (value := mean[name]) is not None]
    return (max if metric.higher_is_better else min)(values) if values else None


def _add_metrics(table: Table, report: Report) -> None:
    for metric in report.metrics.values():
        table.add_column(metric.title, justify="right", no_wrap=True)


def _cells(report: Report, means: Means, changes: Means | None = None) -> list[str]:
    return [text(metric, means[name], (changes or {}).get(name)) for name, metric in report.metrics.items()]


def text(metric: Metric, value: float | None, change: float | None = None) -> str:
    """Text of a value, with its difference if there is one."""
    if value is None:
        return "-"
    shown = f"{value:.{metric.digits}f}"
    return shown if change is None else f"{shown} ({change:+.{metric.digits}f})"
