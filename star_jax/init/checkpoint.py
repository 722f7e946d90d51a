"""A checkpoint of untrained networks, for runs that start from nothing, or from an autoencoder."""

import dataclasses
import os
import shutil
from pathlib import Path

import jax

from star_jax.checkpoints.directory import (
    CONFIG_FILE,
    TOKENIZER_DIR,
    checkpoint_path,
    create_checkpoint,
    load_provenance,
    read_config,
    save_component,
)
from star_jax.config import StarConfig
from star_jax.errors import InputError
from star_jax.init.component import fresh_component
from star_jax.models.clip.tokenizer import BYTE_LEVEL_VOCABULARY, write_byte_level_tokenizer
from star_jax.models.components import component_names
from star_jax.parallel.processes import wait_for_all


def fresh_checkpoint(
    directory: str | os.PathLike,
    sizes: StarConfig,
    seed: int,
    *,
    vae: str | os.PathLike | None = None,
    renew: bool = False,
) -> Path:
    """Writes fresh weights (`star_jax.init.component`), unless an earlier start did; process 0 writes, all wait.

    Args:
      directory: on a disk that all processes see.
      sizes: of the networks.
      seed: of the weights.
      vae: checkpoint of the same preset whose autoencoder is taken, with its scale of latents; None: a fresh one.
      renew: replace those of an earlier start that were made otherwise; a run that has trained on them keeps them.

    Raises:
      InputError: the sizes' text encoder has a vocabulary that only a converted checkpoint has, `directory` exists
        and is something else, or `vae` is no checkpoint of the preset.
    """
    target = Path(directory)
    text = sizes.text_encoder
    if text is not None and text.vocab_size != BYTE_LEVEL_VOCABULARY:
        raise InputError(
            f"preset {sizes.preset!r} cannot start from nothing: its text encoder has no tokenizer here; set "
            "model.checkpoint to a directory that star-jax convert made"
        )
    if jax.process_index() == 0:
        made = (target / CONFIG_FILE).is_file()
        if not made or (renew and not _is_made_so(target, sizes, seed, vae)):
            _write(target, sizes, seed, vae, force=made)
    wait_for_all("fresh_checkpoint")
    return target


def _is_made_so(target: Path, sizes: StarConfig, seed: int, vae: str | os.PathLike | None) -> bool:
    stored = load_provenance(target)
    made_with = stored.get("fresh_seed"), stored.get("fresh_vae"), read_config(target).unet
    return made_with == (seed, _place(vae), sizes.unet)


def _place(vae: str | os.PathLike | None) -> str | None:
    return None if vae is None else os.path.abspath(vae)


def _write(target: Path, sizes: StarConfig, seed: int, vae: str | os.PathLike | None, *, force: bool) -> None:
    if vae is not None:
        sizes = dataclasses.replace(sizes, vae=read_config(vae, expect_preset=sizes.preset).vae)
    provenance = {
        "preset": sizes.preset,
        "fresh_seed": seed,
        "fresh_vae": _place(vae),
        "components": {},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with create_checkpoint(target, sizes, provenance, force=force) as partial:
        for name in component_names(sizes):
            if name == "vae" and vae is not None:
                shutil.copytree(checkpoint_path(vae) / name, partial / name)
                provenance["components"][name] = load_provenance(vae)["components"][name]
                continue
            save_component(partial, name, fresh_component(sizes, name, seed))
            provenance["components"][name] = {"source": "fresh"}
        if sizes.text_encoder is not None:
            write_byte_level_tokenizer(partial / TOKENIZER_DIR)
