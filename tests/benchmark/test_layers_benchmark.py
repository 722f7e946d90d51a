"""`star-jax benchmark layers`: what it measures and chooses, and that a run that is cut off leaves its report."""

import functools
import json

import jax
import jax.numpy as jnp
import pytest

from star_jax.benchmark.layers import LayersBenchmark, fastest_forms, measure_layers
from star_jax.launch.cli import main
from star_jax.models.architectures import build_model
from star_jax.models.attention import FeedForward
from star_jax.models.i2vgenxl.model import I2VGenXL
from star_jax.models.part import LayersToMeasure, Part
from star_jax.ops import variants
from star_jax.ops.flops import traced_flops
from star_jax.ops.variants import VARIANTS, read_table, write_table
from star_jax.presets import get_preset

LATENTS = (32, 90, 160)


@pytest.fixture
def few_parts(monkeypatch):
    """Two small layers in place of a model's."""
    build = functools.partial(FeedForward, 8, dtype=jnp.float32, param_dtype=jnp.float32)
    inputs = (jax.ShapeDtypeStruct((2, 3, 8), jnp.float32),)
    gate = Part("gate", build, inputs, operations=("geglu",))
    few = LayersToMeasure((gate,), (Part("layer", build, inputs, per_forward=3),))
    monkeypatch.setattr(I2VGenXL, "layers_to_measure", lambda *_: few)


def test_every_row_says_what_was_measured(few_parts):
    rows_so_far = []
    report = measure_layers(
        LayersBenchmark(backward=True), lambda row, report: rows_so_far.append(len(report["rows"]))
    )
    assert report["complete"] and rows_so_far == [1, 2, 3, 4, 5, 6]
    assert [row["form"] for row in report["rows"]] == ["geglu=gelu", "geglu=float32_erf", None] * 2
    assert [row["pass"] for row in report["rows"]] == ["forward"] * 3 + ["backward"] * 3
    assert report["rows"][0]["difference"] == 0 and report["rows"][1]["difference"] < 1e-6
    forward, backward = report["rows"][2], report["rows"][5]
    assert forward["tflop"] * 1e12 == 2 * 6 * (8 * 64 + 32 * 8)
    assert backward["tflop"] == pytest.approx(3 * forward["tflop"])
    assert forward["share"] == backward["share"] == 1
    assert set(report["chosen"]) == {"geglu"}


def test_a_budget_stops_in_time_and_leaves_the_report(few_parts, tmp_path, capsys):
    file = tmp_path / "layers.json"
    assert main(["benchmark", "layers", "--budget", "1e-9", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["rows"] == [] and not report["complete"] and report["hardware"]
    assert "stopped after the --budget of 1e-09 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--write"], "this is a CPU; leave it out"),
        (["--budget", "0"], "budget is 0.0; choose a positive number of seconds"),
        (["--repeats", "0"], "repeats is 0; choose at least 1"),
        (["--preset", "tiny-cogvideox"], "lists no layers to measure one by one; choose one that does"),
        (["--vae-dtype", "int8"], "dtype is int8; choose one of"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(["benchmark", "layers", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_fastest_form_is_chosen_once_all_are_measured():
    def row(form, seconds, direction="forward", difference=0.0):
        forms = {"geglu": form}
        return {"forms": forms, "seconds": seconds, "pass": direction, "difference": difference}

    assert fastest_forms([row("gelu", 2.0)]) == {}
    assert fastest_forms([row("gelu", 2.0), row("float32_erf", 1.0)]) == {"geglu": "float32_erf"}
    assert fastest_forms([row("gelu", 2.0), row("float32_erf", 1.99)]) == {"geglu": "gelu"}  # in use here
    rows = [row("gelu", 2.0), row("float32_erf", 3.0), row("float32_erf", 1.0, "backward")]
    assert fastest_forms(rows) == {"geglu": "gelu"}
    for wrong in (0.1, float("nan")):  # not even a candidate
        assert fastest_forms([row("gelu", 2.0), row("float32_erf", 1.0, difference=wrong)]) == {}


def test_a_written_choice_is_read_again(monkeypatch, tmp_path):
    monkeypatch.setattr(variants, "TABLE_FILE", tmp_path / "variants.json")
    (tmp_path / "variants.json").write_text('{"A GPU": {"geglu": "gelu"}}')
    read_table.cache_clear()
    write_table("A GPU", {"group_norm": "one_read"})
    assert read_table() == {"A GPU": {"geglu": "gelu", "group_norm": "one_read"}}
    read_table.cache_clear()


def test_the_layers_stand_for_a_forward_pass():
    """What they count, as often as they run, is most of the network's operations (some blocks are wider)."""
    model = build_model(get_preset("i2vgen-xl"), dtype="bfloat16")
    counted = 0.0
    for part in model.layers_to_measure(LATENTS).layers:
        if not part.per_forward:
            continue
        run, args = part.abstract()
        counted += part.per_forward * traced_flops(jax.jit(run).trace(*args))
    assert 0.85 < counted / 257.8e12 < 1.05  # one evaluation of UNet and ControlNet, docs/benchmarks.md


@pytest.mark.parametrize("preset", ["i2vgen-xl", "tiny"])
def test_every_operation_with_forms_is_measured(preset):
    model = build_model(get_preset(preset), dtype="bfloat16", vae_dtype="float16")
    parts = model.layers_to_measure(LATENTS)
    assert {name for part in parts.operations for name in part.operations} == set(VARIANTS)
    for part in [*parts.operations, *(part for part in parts.layers if not part.per_forward)]:
        run, args = part.abstract()
        assert jax.eval_shape(run, *args).shape == part.inputs[0].shape, part.name
