"""star-jax compile-check: reading compiled programs, one-line errors; where libtpu is installed, compiling."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from quick_programs import with_devices

from star_jax.benchmark.aot import topology
from star_jax.benchmark.aot.check import compile_for
from star_jax.benchmark.aot.hlo import Traffic, read_program
from star_jax.errors import InputError, RunError
from star_jax.launch import compile_check
from star_jax.launch.cli import main
from star_jax.ops.flops import traced_flops
from star_jax.ops.splash import splash_attention

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None

# A loop of 5 turns, asynchronous collectives and a kernel, as compiled for TPUs.
TPU_TEXT = """\
HloModule jit_step, is_scheduled=true

%region_add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  ROOT %add = f32[]{:T(128)} add(%a, %a)
}

%body.1 (arg: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %arg = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %collective-permute-start.2 = (bf16[1,128]{1,0}, bf16[1,128]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), channel_id=3, source_target_pairs={{0,1},{1,2}}
  %collective-permute-done.2 = bf16[1,128]{1,0} collective-permute-done(%collective-permute-start.2)
  %splash_mha_fwd_segmented.3.clone.1 = (f32[512,128]{1,0}, bf16[2,512,64]{2,1,0}) custom-call(%q, %k), custom_call_target="tpu_custom_call"
  ROOT %tuple = (s32[], bf16[8,128]) tuple(%i, %y)
}

%cond.1 (arg: (s32[], bf16[8,128])) -> pred[] {
  %constant.4 = s32[]{:T(128)} constant(5)
  %turn = s32[]{:T(128)} get-tuple-element(%arg), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%turn, %constant.4), direction=LT
}

ENTRY %main.7 (x: bf16[8,128]) -> bf16[8,128] {
  %x = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %while.1 = (s32[], bf16[8,128]) while(%t), condition=%cond.1, body=%body.1
  %all-reduce.1 = (f32[4,8]{1,0}, f32[2]{0}) all-reduce(%p, %q), channel_id=1, to_apply=%region_add
  %all-gather-start.1 = (bf16[2,64]{1,0}, bf16[8,64]{1,0}) all-gather-start(%s), channel_id=2, dimensions={0}
  %custom-call.9 = f32[8]{0} custom-call(%z), custom_call_target="Sharding"
  %send.2 = (f32[4,8]{1,0:T(8,128)}, u32[], token[]) send(%all-reduce.1, %after-all), channel_id=6, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done.2 = token[] send-done(%send.2), channel_id=6, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  ROOT %all-to-all.5 = bf16[8,128]{1,0} all-to-all(%w), channel_id=4, dimensions={0}
}
"""  # noqa: E501


def test_collectives_and_kernels_of_a_tpu_program():
    found = read_program(TPU_TEXT)
    assert found.collectives == {
        "all-gather": Traffic(1, 8 * 64 * 2),
        "all-reduce": Traffic(1, (4 * 8 + 2) * 4),
        "all-to-all": Traffic(1, 8 * 128 * 2),
        "collective-permute": Traffic(5, 5 * 128 * 2),
    }
    assert found.kernels == {"splash_mha_fwd_segmented": 5}
    assert found.between_slices == {"all-reduce": Traffic(1, 4 * 8 * 4)}


PROGRAM = """
import json
import jax, jax.numpy as jnp
from functools import partial
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from star_jax.benchmark.aot.hlo import read_program

mesh = jax.make_mesh((8,), ("context",), axis_types=(AxisType.Auto,))

@partial(jax.shard_map, mesh=mesh, in_specs=P("context"), out_specs=P("context"))
def step(x):  # [1, 16] on each device
    def body(x, _):
        return jax.lax.ppermute(x, "context", [(i, (i + 1) % 8) for i in range(8)]) * 2.0, None
    x = jax.lax.scan(body, x, length=3)[0]
    whole = jax.lax.all_gather(x, "context", axis=0, tiled=True)
    return x + jax.lax.psum(x.sum(), "context") + whole[:1]

text = jax.jit(step).lower(jax.ShapeDtypeStruct((8, 16), jnp.float32)).compile().as_text()
print(json.dumps({kind: [t.count, t.bytes] for kind, t in read_program(text).collectives.items()}))
"""


def test_collectives_of_a_program_compiled_for_eight_devices():
    environment = with_devices(8)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["collective-permute"] == [3, 3 * 16 * 4]
    assert found["all-gather"] == [1, 8 * 16 * 4]
    assert found["all-reduce"][0] >= 1


def test_operations_of_loops_gradients_and_kernels_are_counted():
    x, w = jnp.zeros((4, 8)), jnp.zeros((8, 8))

    def loop(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=6)[0].sum()

    product = 2 * 4 * 8 * 8
    assert traced_flops(jax.make_jaxpr(loop)(x, w)) == 6 * product
    assert traced_flops(jax.make_jaxpr(jax.grad(loop, argnums=1))(x, w)) == 6 * 3 * product

    image, kernel = jnp.zeros((2, 5, 6, 3)), jnp.zeros((3, 3, 3, 7))
    convolve = jax.make_jaxpr(
        lambda x, k: jax.lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    assert traced_flops(convolve(image, kernel)) == 2 * (2 * 5 * 6 * 7) * 27

    q = jax.ShapeDtypeStruct((2, 256, 3, 64), jnp.bfloat16)
    attention = 2 * 2 * 3 * 256 * 256 * 64  # one product

    def loss(q):
        return splash_attention(q, q, q).astype(jnp.float32).sum()

    assert traced_flops(jax.make_jaxpr(loss)(q)) == 2 * attention
    assert traced_flops(jax.make_jaxpr(jax.grad(loss))(q)) == pytest.approx((2 + 4 + 3) * attention, rel=1e-3)


@pytest.mark.parametrize("name", ["v5e-16", "v9:2x2", ""])
def test_a_topology_of_unknown_form_is_refused(name, capsys):
    assert main(["compile-check", "--inference", "--topology", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert repr(name) in error and "v5e:4x4" in error


def test_no_slice_is_refused(capsys):
    assert main(["compile-check", "--inference", "--topology", "v5e:2x2", "--num-slices", "0"]) == 2
    assert "--num-slices is 0; choose at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--inference", "--config", "configs/tiny.py"]])
def test_one_program_is_asked_for(arguments, capsys):
    assert main(["compile-check", "--topology", "v5e:2x2", *arguments]) == 2
    assert "either --config FILE" in capsys.readouterr().err


def test_without_the_tpu_compiler_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r'pip install "jax\[tpu\]=='):
        topology.tpu_devices("v5e:2x2")


def test_without_the_cuda_compiler_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r'pip install "jax\[cuda13\]=='):
        topology.topology_devices("h100:8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology", "h100:2x2"], "expected the number of GPUs, such as h100:1 or h100:8"),
        (["--topology", "h200"], "topology is 'h200:'; expected the number of GPUs, such as h200:1"),
        (["--topology", "h100:8", "--num-slices", "2"], "only TPUs have slices, so leave it out for h100:8"),
        (["--topology", "b200:8"], "where KIND is one of v5e, v5p, v6e, h100, h200, for example"),
    ],
)
def test_gpus_that_are_not_there(arguments, message, capsys):
    assert main(["compile-check", "--inference", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_kernels_of_a_gpu_program():
    text = """\
ENTRY %main.7 (x: bf16[8,128]) -> bf16[8,128] {
  %x = bf16[8,128]{1,0} parameter(0)
  %custom-call.3 = (bf16[8]{0}, u8[0]{0}) custom-call(%x), custom_call_target="__cudnn$fmhaSoftmax"
  %custom-call.4 = (bf16[8]{0}, u8[0]{0}) custom-call(%x), custom_call_target="__cudnn$fmhaSoftmaxBackward"
  %cublas.1 = (bf16[8]{0}, s8[0]{0}) custom-call(%x), custom_call_target="__cublas$gemm"
  ROOT %frames.2 = f32[8]{0} custom-call(%x), custom_call_target="__gpu$xla.gpu.triton"
}
"""
    names = ("cudnn$fmhaSoftmax", "cudnn$fmhaSoftmaxBackward", "gpu$xla.gpu.triton")
    assert read_program(text).kernels == dict.fromkeys(names, 1)


class TracedStub:
    """Stands for a traced program that the compiler refuses with a message."""

    def __init__(self, message: str):
        self.message, self.jaxpr = message, jax.make_jaxpr(jnp.sin)(1.0)

    def lower(self):
        return self

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.00G of 15.75G hbm. Exceeded ...",
        "RESOURCE_EXHAUSTED: total memory required for HLO temporaries (20.00G) exceeds available HBM (15.75G).",
    ],
)
def test_a_program_that_does_not_fit_is_reported(message):
    report = compile_for(TracedStub(message), topology.hbm_bytes("v5e:2x2"))
    assert not report.fits
    assert report.peak_device_bytes == 20 * 2**30 > report.hbm_bytes


def test_other_errors_of_the_compiler_are_not_hidden():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        compile_for(TracedStub("INTERNAL: something else"), 1)


def test_what_does_not_fit_fails_with_one_line(monkeypatch, capsys, tmp_path):
    traced = TracedStub("RESOURCE_EXHAUSTED: Used 20.00G of 15.75G hbm.")
    device = type("Device", (), {"device_kind": "TPU v5 lite"})
    facts = {
        "program": "sampler step",
        "preset": "tiny",
        "batch_size": 1,
        "clip": [4, 8, 8],
        "mesh": {"data": 1},
    }
    monkeypatch.setattr(topology, "tpu_devices", lambda name, num_slices: [device])
    monkeypatch.setattr(topology, "prepare_environment", lambda **_: None)
    monkeypatch.setattr(compile_check, "_inference", lambda args, devices: (traced, facts))
    report = tmp_path / "report.json"
    assert main(["compile-check", "--inference", "--topology", "v5e:1x1", "--json", str(report)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "needs 20 GiB a device, but v5e:1x1 has 15.75 GiB" in error and "more devices" in error
    assert json.loads(report.read_text())["fits"] is False


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "star_jax.launch.cli", "compile-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


needs_libtpu = pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu (the extra `tpu`) is not installed")


@needs_libtpu
def test_a_shape_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="v5e:3x5"):
        topology.tpu_devices("v5e:3x5")


@needs_libtpu
@pytest.mark.parametrize("name", ["v5e:1x1", "v6e:1x1"])
def test_a_single_chip_is_a_topology(name):
    assert len(topology.tpu_devices(name)) == 1


TWO_SLICES = """
import json
from functools import partial
from star_jax.benchmark.aot.topology import prepare_environment, tpu_devices
prepare_environment()
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from star_jax.benchmark.aot.hlo import read_program
from star_jax.parallel.mesh import MeshConfig, make_mesh

mesh = make_mesh(MeshConfig(data=1, fsdp=2, context=2), tpu_devices("v5e:2x2", 2))
x = jax.ShapeDtypeStruct((8, 256), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp"), "context")))
whole = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, P("context")))
found = read_program(whole.lower(x).compile().as_text()).between_slices
print(json.dumps([dict(mesh.shape), {kind: [t.count, t.bytes] for kind, t in found.items()}]))
"""


@needs_libtpu
def test_what_two_slices_exchange():
    done = subprocess.run([sys.executable, "-c", TWO_SLICES], capture_output=True, text=True, check=True)
    shape, found = json.loads(done.stdout)
    assert shape == {"data": 2, "fsdp": 2, "context": 2}
    assert found == {"all-reduce": [1, 128 * 4]}  # a device's half of the columns


@needs_libtpu
def test_the_samplers_step_compiles_for_four_chips(tmp_path):
    size = ("--preset", "tiny", "--frames", "4", "--height", "144", "--width", "128")
    done = run("--inference", "--topology", "v5e:2x2", *size, "--json", "report.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["fits"] and report["mesh"] == {"data": 2, "fsdp": 1, "context": 2}
    assert 0 < report["peak_device_bytes"] < report["hbm_bytes"] == int(15.75 * 2**30)
    assert report["collectives"]["all-to-all"]["count"] > 0
    assert report["tflop_per_step"] > 0 and report["compile_seconds"] > 0
    assert "peak memory" in done.stdout and "all-to-all" in done.stdout


TESTS = Path(__file__).parents[1]
TOY_RUNGS = f"""
import sys
sys.path[:0] = {[str(TESTS), str(TESTS / "train")]!r}
from distilled_toy import experiment

def get_config(rung):
    return experiment(rung, None)
"""


@needs_libtpu
@pytest.mark.parametrize("rung", ["guidance", "one_step", "dual_stream", "lora"])
def test_every_rung_of_distillation_compiles_for_a_chip(rung, tmp_path):
    (tmp_path / "rungs.py").write_text(TOY_RUNGS)
    done = run("--topology", "v5e:1x1", "--config", f"rungs.py:{rung}", "--json", "report.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["fits"] and report["program"] == "training step"
    assert report["peak_device_bytes"] > 0 and report["tflop_per_step"] > 0
