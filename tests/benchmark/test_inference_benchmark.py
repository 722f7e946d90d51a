"""`star-jax benchmark inference` and `compare`: what a report holds, random weights, plots, mistakes."""

import dataclasses
import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import abstract_component
from quick_programs import with_devices

from star_jax.benchmark import operations
from star_jax.benchmark.inference import InferenceBenchmark, count_inference, measure_inference
from star_jax.benchmark.pipeline import measure_pipeline
from star_jax.benchmark.report import compare, read_report, rows_of, throughput
from star_jax.benchmark.timing import Timing, time_program
from star_jax.errors import InputError
from star_jax.files import write_json
from star_jax.init.random_params import random_params
from star_jax.launch.cli import main
from star_jax.models.architectures import build_model
from star_jax.ops.flops import compiled_flops
from star_jax.presets import PRESETS, get_preset

SMALL = {"preset": "tiny", "frames": 4, "height": 80, "width": 64, "steps": 2, "repeats": 2}


def test_random_weights_are_of_unit_gain_and_reproducible():
    abstract = abstract_component(get_preset("tiny"), "text_encoder", dtype=jnp.bfloat16)[1]
    params, again = random_params(abstract, 3), random_params(abstract, 3)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, abstract)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params))
    kernel = np.asarray(params["encoder"]["layers"][0]["mlp"]["fc1"]["kernel"], np.float32)
    assert kernel.std() * np.sqrt(len(kernel)) == pytest.approx(1, rel=0.05)
    assert (np.asarray(params["final_layer_norm"]["scale"]) == 1).all()
    assert (np.asarray(params["final_layer_norm"]["bias"]) == 0).all()
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_a_step_waits_for_the_device():
    """A thousand times the work takes longer: what is timed is the computation, not its dispatch."""
    x = jnp.ones((256, 256))

    def powers(count):
        return jax.jit(lambda x: jax.lax.fori_loop(0, count, lambda _, y: jnp.tanh(y @ x), x))

    short, _ = time_program(powers(1), (x,), repeats=3)
    long, compiled = time_program(powers(1000), (x,), repeats=3)
    assert min(long.steps) > 5 * min(short.steps)
    assert len(long.steps) == 3 and long.compile_seconds > 0
    # The documented limit of the compiler's count: one turn of the loop.
    assert compiled_flops(compiled) < 2 * 2 * 256**3


def test_median_and_spread():
    timing = Timing((1.0, 4.0, 2.0), 0.5, 3.0, 9.0)
    assert (timing.median, timing.spread) == (2.0, 1.5)
    assert timing.report()["seconds_per_step"] == 2.0
    speed = throughput(430e12, 2.0, num_devices=1, device_peak=430.0)
    assert (speed["tflop_per_step"], speed["tflops_per_second"], speed["mfu"]) == (430.0, 215.0, 0.5)


@pytest.fixture(scope="module")
def text_report(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("reports") / "text.json"
    arguments = ["--component", "text", "--preset", "tiny", "--repeats", "2", "--peak-tflops", "1"]
    assert main(["benchmark", "inference", *arguments, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_report_holds_what_the_contract_names(text_report):
    for key in ("seconds_per_step", "compile_seconds", "tflop_per_step", "mfu", "peak_host_bytes"):
        assert text_report[key] > 0, key
    assert text_report["peak_device_source"] == "compiler" and text_report["peak_device_bytes"] > 0
    assert text_report["hardware"]["backend"] == "cpu" and text_report["versions"]["jax"] == jax.__version__
    assert text_report["command"].startswith("star-jax") and "commit" in text_report
    assert len(text_report["step_seconds"]) == 2
    assert 0.9 < text_report["tflop_compiled"] / text_report["tflop_per_step"] < 1.35


def test_vae_piece():
    report = measure_inference(InferenceBenchmark(component="vae-encode", **SMALL))
    assert report["seconds_per_frame"] == pytest.approx(report["seconds_per_step"] / 3)
    assert report["tflop_compiled"] == pytest.approx(report["tflop_per_step"], rel=0.1)
    assert report["dtype"] == "float32" and report["mfu"] is None


def test_whole_pipeline_by_stage(tiny_pipeline):
    report = measure_pipeline(tiny_pipeline, 4, (80, 64), num_inference_steps=2, repeats=1)
    assert sum(report["stage_seconds"].values()) == pytest.approx(report["seconds_per_step"])
    assert all(seconds > 0 for seconds in report["stage_seconds"].values())
    assert report["seconds_per_frame"] == pytest.approx(report["seconds_per_step"] / 4)
    assert "whole frames" in report["plan"] and report["planned_bytes"] > 0


def test_operations_of_the_whole_pipeline():
    """Two guided evaluations, each frame encoded and decoded once, two prompts embedded and projected once."""
    row = count_inference(InferenceBenchmark(component="pipeline", **SMALL))
    model = build_model(get_preset("tiny"))
    parts = [
        operations.velocity_flops(model, (4, 10, 8), batch=2, projected=True) * 2,
        operations.condition_flops(model, batch=2),
        operations.text_flops(model, batch=2),
        operations.encode_flops(model, 3, 80, 64) * (4 / 3),
        operations.decode_flops(model, 3, 80, 64) * (4 / 3),
    ]
    assert row["tflop_per_step"] * 1e12 == pytest.approx(sum(part.total for part in parts))


def test_published_rows_and_sweeps_without_running(tmp_path, capsys, monkeypatch):
    report, plot = tmp_path / "report.json", tmp_path / "plot.png"
    count = ["benchmark", "inference", "--count-only", "--json", str(report)]
    assert main([*count, "--published"]) == 0
    rows = read_report(report)["rows"]
    assert [(row["frames"], row["height"], row["width"]) for row in rows] == [
        (33, 720, 1280),
        (101, 768, 1408),
    ]
    assert rows[0]["component"] == "pipeline" and rows[0]["tflop_per_step"] == pytest.approx(7948, rel=1e-3)
    # How cost grows shows on the finest of the levels, which is traced in a quarter of the time.
    full = get_preset("i2vgen-xl")
    levels = {"block_out_channels": (320,), "attention_levels": (True,), "layers_per_block": 1}
    monkeypatch.setitem(
        PRESETS, "i2vgen-xl", dataclasses.replace(full, unet=dataclasses.replace(full.unet, **levels))
    )
    assert main([*count, "--sweep", "frames", "--plot", str(plot)]) == 0
    rows = rows_of(read_report(report))
    assert [row["frames"] for row in rows] == [4, 8, 16, 32]
    assert plot.read_bytes().startswith(b"\x89PNG")
    # Linear in frames but for the attention along them.
    assert rows[3]["tflop_per_step"] / rows[0]["tflop_per_step"] == pytest.approx(8, rel=0.01)
    assert main([*count, "--sweep", "pixels"]) == 0
    rows = rows_of(read_report(report))
    growth = rows[3]["tflop_parts"]["attention"] / rows[0]["tflop_parts"]["attention"]
    pixels = math.prod(rows[3]["padded_size"]) / math.prod(rows[0]["padded_size"])
    assert pixels < 8 and growth == pytest.approx(pixels**2, rel=0.1)


def test_compare(text_report, tmp_path, capsys):
    slower = text_report | {"seconds_per_step": 2 * text_report["seconds_per_step"], "dtype": "bfloat16"}
    slower["versions"] = slower["versions"] | {"jax": "9.9"}
    rows, differences = compare(text_report, slower)
    assert rows[0]["seconds_per_step"][2] == pytest.approx(2.0)
    assert rows[0]["peak_host_bytes"][2] == 1.0
    assert differences == [
        f"versions.jax: {jax.__version__} against 9.9",
        f"dtype: {text_report['dtype']} against bfloat16",
    ]
    write_json(tmp_path / "a.json", text_report)
    write_json(tmp_path / "b.json", slower)
    assert main(["benchmark", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    assert "against 9.9" in capsys.readouterr().out
    with pytest.raises(InputError, match="share no measurement"):
        compare(text_report, text_report | {"component": "unet"})


def test_mesh_spreads_weights_and_frames():
    code = """
import jax
from star_jax.benchmark.inference import InferenceBenchmark, measure_inference
from star_jax.parallel.mesh import parse_mesh
from star_jax.parallel.placement import Placement

placement = Placement.of(parse_mesh("data=1,fsdp=2,context=2"))
assert placement.num_devices == 4
array = placement.inputs(jax.numpy.zeros((2, 4, 10, 8, 4)))
assert array.sharding.shard_shape(array.shape) == (1, 2, 10, 8, 4)
leaf = placement.params({"kernel": jax.ShapeDtypeStruct((256, 128), "float32")})["kernel"]
assert leaf.sharding.shard_shape(leaf.shape) == (64, 128)
benchmark = InferenceBenchmark("text", "tiny", repeats=1, mesh="data=-1", device_peak=1.0)
report = measure_inference(benchmark)
assert report["mfu"] * 4 == report["tflops_per_second"]
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=with_devices(4), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"component": "lpips"}, "component is 'lpips'; choose one of unet"),
        ({"frames": 0}, "frames is 0; choose at least 1"),
        (
            {"mesh": "data:2"},
            "mesh is 'data:2'; give axes of data, fsdp, context, dcn_data, such as data=2,context=4",
        ),
        ({"mesh": "model=2"}, "mesh is 'model=2'; give axes of data, fsdp, context"),
        ({"device_peak": -1.0}, "peak-tflops is -1.0; it must be positive"),
    ],
)
def test_mistakes(change, message):
    with pytest.raises(InputError, match=message):
        InferenceBenchmark(**SMALL | change)


def test_mistakes_on_the_command_line(tmp_path, capsys):
    assert main(["benchmark", "compare", str(tmp_path / "none.json"), str(tmp_path / "none.json")]) == 2
    assert main(["benchmark", "inference", "--plot", "x.png"]) == 2
    assert "add --sweep" in capsys.readouterr().err
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match="is not a benchmark's report"):
        read_report(tmp_path / "list.json")


def test_counting_says_what_was_counted():
    row = count_inference(InferenceBenchmark(component="unet", batch=2, **SMALL))
    assert row == count_inference(InferenceBenchmark(batch=2, **SMALL))
    assert (row["component"], row["preset"], row["batch"], row["padded_size"]) == (
        "unet",
        "tiny",
        2,
        [80, 64],
    )
