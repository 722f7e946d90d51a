"""Plots of a sweep."""

import sys

from star_jax.benchmark.plot import draw_lines
from star_jax.launch.cli import main


def test_every_line_with_its_positive_points():
    series = {"a": [(1, 1), (10, 100)], "b": [(1, 2), (4, 0), (10, 2)], "none": [(1, 0)]}
    (axes,) = draw_lines(series, "title", "frames").axes
    assert {line.get_label(): line.get_xydata().tolist() for line in axes.lines} == {
        "a": [[1, 1], [10, 100]],
        "b": [[1, 2], [10, 2]],
    }
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "10"]
    assert (axes.get_title(), axes.get_xlabel()) == ("title", "frames")
    assert axes.get_xscale() == axes.get_yscale() == "log"


def test_without_matplotlib_nothing_starts(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plot = tmp_path / "plot.png"
    assert main(["benchmark", "inference", "--count-only", "--sweep", "frames", "--plot", str(plot)]) == 2
    captured = capsys.readouterr()
    assert captured.err.strip().endswith("plots need matplotlib; pip install 'star_jax[plots]'")
    assert not captured.out and not plot.exists()
