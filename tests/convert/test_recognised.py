"""What the command says of sources: each family by its name, and those that are of no preset."""

import re

import pytest
from convert_samples import ROUND_TRIPS, family_state, save_state

from star_jax.convert.families import FAMILIES
from star_jax.launch.cli import main


@pytest.mark.parametrize(("family", "prefix"), ROUND_TRIPS)
def test_inspect_names_every_family(tmp_path, capsys, family, prefix):
    source = save_state(tmp_path / "source.pt", family_state(family, prefix))
    assert main(["convert", "--inspect", str(source)]) == 0
    report = capsys.readouterr().out
    preset = "i2vgen-xl, " if family == "taesdv" else "none ("  # TAESDV has one size
    assert f"family: {family} (" in report and f"preset: {preset}" in report


@pytest.mark.parametrize(
    ("preset", "words"),
    [([], "no preset (i2vgen-xl"), (["--preset", "tiny-star"], "preset 'tiny-star' has no text_encoder")],
)
def test_a_text_tower_of_no_preset(tmp_path, capsys, preset, words):
    source = save_state(tmp_path / "clip.pt", family_state("clip"))
    assert main(["convert", str(source), str(tmp_path / "made"), *preset]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_help_names_every_family(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    words = set(re.findall(r"[\w-]+", capsys.readouterr().out))
    assert set(FAMILIES) <= words
