"""The profiler window records the steps it names, also where the run ends within it."""

import pytest
from toy_training import ToyObjective, toy_config

from star_jax.train.loop import train


@pytest.mark.parametrize(("first", "count"), [(1, 1), (2, 9)])
def test_a_window_of_steps_is_recorded(tmp_path, first, count):
    config = toy_config(num_steps=3, profile_start_step=first, profile_steps=count)
    train(ToyObjective(), config, tmp_path, quiet=True)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 0
