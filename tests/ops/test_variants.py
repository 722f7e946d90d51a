"""Which form runs on which device: the table that the package holds, and what comes before and after it."""

import json

import jax
import pytest

from star_jax.errors import InputError
from star_jax.ops import variants
from star_jax.ops.variants import VARIANTS, read_table, using, variant_of


@pytest.fixture
def table(monkeypatch, tmp_path):
    """A table file of the test's own."""
    file = tmp_path / "variants.json"
    monkeypatch.setattr(variants, "TABLE_FILE", file)
    read_table.cache_clear()
    yield file
    read_table.cache_clear()


def test_the_package_s_table_names_what_there_is():
    assert {"NVIDIA H200", "NVIDIA H100 80GB HBM3"} <= set(read_table())
    assert all(set(chosen) <= set(VARIANTS) for chosen in read_table().values())


def test_a_cpu_uses_the_first_forms():
    assert {name: variant_of(name, "cpu") for name in VARIANTS} == {
        name: f[0] for name, f in VARIANTS.items()
    }
    assert variant_of("geglu", "gpu") == "float32_erf"


def test_the_caller_s_choice_comes_before_the_table_s_and_that_before_the_platform_s(table):
    table.write_text(json.dumps({jax.devices()[0].device_kind: {"geglu": "float32_erf"}}))
    assert variant_of("geglu") == "float32_erf"
    assert variant_of("wide_attention") == "chunked"
    assert variant_of("group_norm", "tpu") == "two_pass"
    with using(geglu="gelu"):
        assert variant_of("geglu") == "gelu"


def test_unknown_forms_are_refused(table):
    with pytest.raises(InputError, match="geglu=tanh; choose one of gelu, float32_erf"), using(geglu="tanh"):
        pass
    table.write_text('{"GPU": {"gelu": "fast"}}')
    with pytest.raises(InputError, match="GPU names variant gelu=fast; choose one of short_attention"):
        read_table()
