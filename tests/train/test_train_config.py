"""Configurations: files, overrides, and what is said about mistakes."""

import dataclasses
import json

import pytest

from star_jax.diffusion.losses import RELEASED_LOSS, LossConfig
from star_jax.errors import InputError
from star_jax.launch.cli import main
from star_jax.launch.experiment import run_config_file, with_changes
from star_jax.parallel.mesh import MeshConfig
from star_jax.train.config import ExperimentConfig, OptimizerConfig, TrainConfig, from_groups
from star_jax.train.workdir import open_workdir, read_workdir_config

IMPORTS = """from star_jax.data.config import DataConfig
from star_jax.train.config import ExperimentConfig, TrainConfig"""
WRONG = "ExperimentConfig(TrainConfig(4, 2), DataConfig('a', flip_probability=True))"
MINIMAL = {"train": {"num_steps": 4, "batch_size": 2}, "data": {"source": "synthetic"}}


def changed(**groups):
    return {**MINIMAL, **{name: {**MINIMAL.get(name, {}), **keys} for name, keys in groups.items()}}


def experiment(**groups):
    return from_groups(ExperimentConfig, changed(**groups))


def test_defaults_are_the_paper_s_optimizer():
    config = experiment()
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (5e-5, 1e-2)
    assert (config.optimizer.b1, config.optimizer.b2, config.optimizer.clip_norm) == (0.9, 0.999, 1.0)
    assert config.data.caption_dropout == 0.5 and config.mesh == MeshConfig()


def test_overrides_have_the_type_of_their_key():
    config = with_changes(
        experiment(train={"validation_source": "here"}),
        [
            "--config.train.num_steps=6",
            "--config.train.ema_decay",
            "0.5",
            "--config.train.validation_source=None",
            "--config.model.liem_spatial=false",
            "--config.mesh.fsdp=-1",
            "--config.mesh.data=1",
            "--config.optimizer.learning_rate=1",
            "--config.optimizer.clip_norm=None",
            "--config.data.num_epochs=2",
        ],
    )
    assert config.train == TrainConfig(6, 2, ema_decay=0.5)
    assert config.model.star_config().unet.liem.spatial is False
    assert config.mesh.fsdp == -1 and isinstance(config.optimizer.learning_rate, float)
    assert config.optimizer.clip_norm is None and config.data.num_epochs == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed(train={"num_step": 3}), r"unknown key train\.num_step; did you mean num_steps\?"),
        (changed(trian={"num_steps": 3}), r"unknown group 'trian'; did you mean train\?"),
        (
            {"train": {"batch_size": 2}, "data": {"source": "synthetic"}},
            r"config has no train\.num_steps; set it",
        ),
        ({"train": MINIMAL["train"]}, r"config has no data\.source"),
        (changed(train={"num_steps": "4"}), r"train\.num_steps is '4'; expected int"),
        (changed(train={"num_steps": True}), r"train\.num_steps is True; expected int"),
        (changed(train={"num_steps": 0}), r"train\.num_steps is 0; it must be at least 1"),
        (changed(train={"grad_accumulation": 3}), r"must divide train\.batch_size=2"),
        (
            changed(train={"remat": "some"}),
            r"train\.remat is 'some'; choose one of none, dots, attention, full",
        ),
        (changed(train={"ema_decay": 1.0}), r"train\.ema_decay is 1\.0"),
        (changed(optimizer={"schedule": "step"}), r"optimizer\.schedule is 'step'"),
        (changed(optimizer={"clip_norm": 0.0}), r"optimizer\.clip_norm is 0\.0; choose a positive number"),
        (changed(mesh={"data": -1, "fsdp": -1}), r"only one axis can be -1"),
        (changed(mesh={"data": 0}), r"mesh\.data is 0"),
        (changed(model={"preset": "huge"}), r"preset is 'huge'"),
        (changed(model={"dtype": "float8"}), r"model\.dtype is 'float8'"),
        ({**MINIMAL, "mesh": 3}, r"config\.mesh is 3; it must be a group"),
    ],
)
def test_mistakes_in_recorded_values_are_named(values, message):
    with pytest.raises(InputError, match=message):
        from_groups(ExperimentConfig, values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.num_steps=many"], r"--config\.train\.num_steps=many: expected int"),
        (["--config.train.num_steps"], r"has no value; write"),
        (["--config.train.steps=1"], r"--config\.train\.steps does not exist"),
        (
            ["--config.train.num_step=1"],
            r"--config\.train\.num_step does not exist; did you mean num_steps\?",
        ),
        (
            ["--config.train=1"],
            r"--config\.train is a group; give one of its keys, such as --config\.train\.num_steps=1",
        ),
        (["--config.train.num_steps=None"], r"train\.num_steps is None; expected int"),
        (["--config.train.num_steps=0"], r"train\.num_steps is 0; it must be at least 1"),
        (["--config.optimizer.clip_norm=high"], r"--config\.optimizer\.clip_norm=high: expected float"),
        (["--config.train.num_steps=1", "more"], r"unknown argument 'more'"),
        (
            ["--config.trains.num_steps=1"],
            r"--config\.trains\.num_steps does not exist; did you mean train\?",
        ),
        (["--config.model.train_base=1"], r"expected bool"),
        (["--lr=1"], r"unknown argument '--lr=1'"),
    ],
)
def test_mistakes_on_the_command_line_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        with_changes(experiment(), arguments)


@pytest.mark.parametrize(
    ("text", "argument", "message"),
    [
        ("def get_config():\n    return 1 +", "", r"line 2: SyntaxError"),
        ("x = 3", "", r"AttributeError: .*get_config"),
        ("def get_config():\n    return 1", ":big", r"takes no argument; leave out ':big'"),
        ("def get_config(arg='a'):\n    y = 1\n    return {'a': 1}[arg]", ":b", r"line 3: KeyError: 'b'"),
        ("import no_such_module", "", r"line 1: ModuleNotFoundError"),
        ("def get_config():\n    return open('/no/such').read()", "", r"line 2: FileNotFoundError"),
        ("def get_config():\n    return None", "", r"get_config returned None, not an ExperimentConfig"),
        (
            f"{IMPORTS}\nTrainConfig(num_step=3)",
            "",
            r"line 3: TypeError: .*unexpected keyword argument 'num_step'",
        ),
        (f"{IMPORTS}\nTrainConfig(num_steps=3)", "", r"line 3: TypeError: .*missing .*'batch_size'"),
        (f"{IMPORTS}\nTrainConfig('4', 1)", "", r"train\.num_steps is '4'; expected int"),
        (f"{IMPORTS}\nTrainConfig(0, 1)", "", r"train\.num_steps is 0; it must be at least 1"),
        (
            f"{IMPORTS}\ndef get_config():\n    return {WRONG}",
            "",
            r"data\.flip_probability is True; expected float",
        ),
    ],
)
def test_mistakes_in_a_config_file_are_named(tmp_path, text, argument, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        run_config_file(f"{path}{argument}")


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir = ["--workdir", str(tmp_path / "run")]
    assert main(["train", "--config", "configs/none.py", *workdir]) == 2
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1 and "no config file configs/none.py; give a file, or one of configs/" in error
    )
    assert main(["train", "--config", "tiny.py", *workdir, "--config.train.num_steps=-1"]) == 2
    assert capsys.readouterr().err == "star-jax train: train.num_steps is -1; it must be at least 1\n"
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit):
        main(["degrade", "a", "-o", "b", "--config.train.num_steps=1"])


def test_a_workdir_of_another_configuration_is_refused(tmp_path):
    config = experiment()
    open_workdir(tmp_path / "run", experiment(optimizer={"learning_rate": 1.0}))
    open_workdir(tmp_path / "run", config)  # a start without a checkpoint binds nothing
    (tmp_path / "run" / "checkpoints" / "4").mkdir(parents=True)
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=8))
    open_workdir(tmp_path / "run", longer)
    other = experiment(optimizer={"learning_rate": 1e-4})
    with pytest.raises(
        InputError, match=r"begun with optimizer\.learning_rate=5e-05, .* has 0\.0001; choose"
    ):
        open_workdir(tmp_path / "run", other)
    open_workdir(tmp_path / "run", other, allow_changed_config=True)
    assert read_workdir_config(tmp_path / "run")["optimizer"]["learning_rate"] == 1e-4
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        open_workdir(tmp_path / "run", other)
    with pytest.raises(InputError, match="not a work directory"):
        read_workdir_config(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to --workdir"):
        open_workdir(tmp_path / "file" / "run", config)


def test_the_length_of_a_schedule_is_not_changed_unnoticed(tmp_path):
    config = experiment(optimizer={"schedule": "cosine"})
    open_workdir(tmp_path, config)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=8))
    with pytest.raises(InputError, match=r"begun with train\.num_steps=\d+, this configuration has 8"):
        open_workdir(tmp_path, longer)
    open_workdir(tmp_path, longer, allow_changed_config=True)


def test_keys_that_a_resumed_run_may_change_exist():
    from star_jax.train.distill.config import DualStreamConfig, GuidanceConfig
    from star_jax.train.workdir import FREE_KEYS

    groups = dataclasses.asdict(experiment())
    keys = {f"{group}.{key}" for group, keys in groups.items() for key in keys}
    of_rungs = {
        f"distill.{field.name}"
        for rung in (GuidanceConfig, DualStreamConfig)
        for field in dataclasses.fields(rung)
    }
    assert keys | of_rungs >= FREE_KEYS
    assert set(groups) == {field.name for field in dataclasses.fields(ExperimentConfig)}


@pytest.mark.parametrize(
    "file",
    [
        "tiny.py",
        "tiny_star.py",
        "tiny_star.py:longer",
        "star_i2vgenxl.py",
        "star_i2vgenxl.py:paper",
        "star_i2vgenxl.py:i2vgenxl",
        "star_i2vgenxl.py:released",
        "ablations.py:df_off",
    ],
)
def test_packaged_configurations_are_whole(file):
    config = run_config_file(file)
    assert type(config) is ExperimentConfig
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.num_steps = 1


def test_a_file_of_the_other_command_is_refused(tmp_path, capsys):
    workdir = ["--workdir", str(tmp_path / "run")]
    assert main(["train", "--config", "tiny_star_vae.py", *workdir]) == 2
    assert "returns VaeExperimentConfig, but this command needs ExperimentConfig" in capsys.readouterr().err
    assert main(["train-vae", "--config", "tiny.py", *workdir]) == 2
    assert not (tmp_path / "run").exists()


def test_what_a_run_recorded_is_the_same_configuration():
    """Also of an earlier version: keys that it did not have are at their defaults."""
    config = run_config_file("star_i2vgenxl.py")
    recorded = json.loads(json.dumps(dataclasses.asdict(config)))
    assert from_groups(ExperimentConfig, recorded) == config
    del recorded["mesh"], recorded["train"]["keep_every_steps"]
    earlier = from_groups(ExperimentConfig, recorded)
    assert (earlier.mesh, earlier.train.keep_every_steps) == (MeshConfig(), 0)


def test_the_paper_s_configuration():
    config = run_config_file("star_i2vgenxl.py:paper")
    assert (config.train.num_steps, config.train.batch_size) == (15_000, 8)
    assert (config.data.num_frames, config.data.height, config.data.width) == (32, 720, 1280)
    assert config.data.caption_dropout == 0.5 and config.optimizer == OptimizerConfig()
    assert config.diffusion == LossConfig()
    # By default, a share of the frames is decoded for the loss.
    default = run_config_file("star_i2vgenxl.py")
    assert default == dataclasses.replace(config, diffusion=LossConfig(frames=6))


def test_the_released_script_s_configuration():
    released = run_config_file("star_i2vgenxl.py:released")
    assert released.diffusion == RELEASED_LOSS and released.data.recipe == "star"
    paper = run_config_file("star_i2vgenxl.py")
    data = dataclasses.replace(released.data, recipe=paper.data.recipe)
    assert dataclasses.replace(released, data=data, diffusion=paper.diffusion) == paper


def test_every_ablation_is_another_configuration():
    from star_jax.configs import ablations, star_i2vgenxl

    paper = star_i2vgenxl.get_config("paper")
    # The rows that the tables share with the full model.
    full = {"liem_both", "liem_before_attention", "df_direct", "weight_linear", "alpha_2", "beta_1"}
    experiments = {row: run_config_file(f"ablations.py:{row}") for row in ablations.ROWS}
    assert {row for row, config in experiments.items() if config == paper} == full
    others = [repr(config) for row, config in experiments.items() if row not in full]
    assert len(set(others)) == len(others) == 23 - len(full)
    with pytest.raises(InputError, match=r"ablation is 'df'; write .* liem_none"):
        run_config_file("ablations.py:df")
    with pytest.raises(InputError, match="variant is 'sd'; choose one of venhancer, paper, i2vgenxl"):
        run_config_file("star_i2vgenxl.py:sd")
