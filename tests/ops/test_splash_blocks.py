"""Blocks of TPUs' flash attention: the table, other blocks compute the same, and every entry compiles for TPUs."""

import functools
import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from star_jax.benchmark.attention_blocks import search_blocks
from star_jax.errors import InputError
from star_jax.launch.cli import main
from star_jax.ops import splash_blocks
from star_jax.ops.attention import dot_product_attention
from star_jax.ops.splash import splash_attention
from star_jax.ops.splash_blocks import Blocks, blocks_of, candidates, padding_of, read_table, write_table

LENGTHS = (14_400, 3_680, 960)  # levels of STAR's network at 720x1280


def test_the_table_has_the_networks_lengths():
    assert all(length in read_table()["any"] for length in LENGTHS)
    for length, padding in zip(LENGTHS, (448, 416, 64), strict=True):  # tokens, of blocks of 512
        assert padding_of(blocks_of(length), length) == pytest.approx((padding / length,) * 2)
        worth = candidates(length)
        assert worth and all(max(padding_of(Blocks(*[size] * 4), length)) <= 0.1 for size in worth)
    assert blocks_of(77) == Blocks(128, 128, 128, 128) and blocks_of(5_000) == Blocks(512, 512, 512, 512)


def test_a_measured_device_has_its_own(tmp_path, monkeypatch):
    file = tmp_path / "splash_blocks.json"
    file.write_text(json.dumps({"any": {"960": {**dict.fromkeys(Blocks.__annotations__, 512)}}}))
    monkeypatch.setattr(splash_blocks, "TABLE_FILE", file)
    read_table.cache_clear()
    write_table("TPU v9", {960: Blocks(1024, 512, 256, 512)})
    assert read_table()["TPU v9"][960].query == 1024 and blocks_of(960).query == 512
    file.write_text('{"any": {"960": {"query": 100}}}')
    read_table.cache_clear()
    with pytest.raises(InputError, match=r"cannot read .*splash_blocks.json.*install star_jax again"):
        blocks_of(960)
    monkeypatch.undo()
    read_table.cache_clear()


def test_blocks_do_not_change_what_is_computed():
    """Interpreted on a CPU, forward and backward, with padding and other blocks in each pass."""
    q, k, v, weight = (
        jax.random.normal(key, (1, 300, 1, 64), jnp.float32) for key in jax.random.split(jax.random.key(0), 4)
    )

    def loss(attend, *inputs):
        return (attend(*inputs) * weight).sum()

    plain = functools.partial(loss, functools.partial(dot_product_attention, implementation="xla"))
    expected = jax.value_and_grad(plain, (0, 1, 2))(q, k, v)
    splash = functools.partial(splash_attention, blocks=Blocks(128, 384, 384, 128))
    with pltpu.force_tpu_interpret_mode():
        found = jax.value_and_grad(functools.partial(loss, splash), (0, 1, 2))(q, k, v)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


def test_the_search_keeps_the_fastest(monkeypatch):
    """With a clock that likes 384 queries forward and 256 keys backward, and has no room for more than 512."""

    def seconds(q, k, v, blocks, direction, repeats):
        if max(blocks.query, blocks.key, blocks.query_backward, blocks.key_backward) > 512:
            return math.inf
        wanted = (blocks.query == 384) if direction == "forward" else (blocks.key_backward == 256)
        return 1.0 if wanted else 2.0

    monkeypatch.setattr("star_jax.benchmark.attention_blocks._seconds", seconds)
    timings = []
    best = search_blocks({1_500: 1}, on_timing=timings.append)[1_500]
    assert best.query == 384 and best.key_backward == 256
    assert {timing.direction for timing in timings} == {"forward", "backward"}
    assert any(math.isinf(timing.seconds) for timing in timings)


def test_the_command_wants_a_tpu(capsys):
    assert main(["benchmark", "blocks"]) == 2
    assert "are for flash attention on TPUs, but this is a cpu" in capsys.readouterr().err
    assert main(["benchmark", "blocks", "--lengths", "960"]) == 2
    assert "write TOKENS:HEADS" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install 'star_jax[tpu]'")
@pytest.mark.parametrize("length", LENGTHS)
def test_every_entry_compiles_for_the_smallest_tpu(length, monkeypatch):
    from star_jax.benchmark.aot.topology import _ENVIRONMENT, tpu_devices

    for name, value in _ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    place = jax.sharding.SingleDeviceSharding(tpu_devices("v5e:1x1")[0])
    inputs = [jax.ShapeDtypeStruct((1, length, 1, 64), jnp.bfloat16, sharding=place)] * 3
    for entries in read_table().values():
        if length in entries:
            attend = functools.partial(splash_attention, blocks=entries[length])
            gradient = jax.grad(lambda *a, attend=attend: attend(*a).astype(jnp.float32).sum(), (0, 1, 2))
            compiled = jax.jit(gradient).trace(*inputs).lower().compile()
            assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 3
