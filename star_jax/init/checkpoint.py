"""A checkpoint of untrained networks, for runs that start from scratch or from an autoencoder."""

import os
import shutil
from typing import Any

import jax
from etils import epath

from star_jax.checkpoints.directory import (
    CONFIG_FILE,
    checkpoint_path,
    create_checkpoint,
    load_provenance,
    read_config,
    save_component,
)
from star_jax.config import ArchitectureConfig
from star_jax.errors import InputError
from star_jax.files import is_url
from star_jax.init.component import fresh_component
from star_jax.models.architectures import build_model
from star_jax.parallel.processes import wait_for_all


def fresh_checkpoint(
    directory: str | os.PathLike,
    sizes: ArchitectureConfig,
    seed: int,
    *,
    vae: str | os.PathLike | None = None,
    renew: bool = False,
) -> epath.Path:
    """Writes fresh weights (`star_jax.init.component`) if there are none yet; process 0 writes, the others wait.

    Args:
      directory: checkpoint directory, on a disk that all processes see, or in a bucket.
      sizes: sizes of the networks.
      seed: seed of the weights.
      vae: checkpoint of the same preset whose autoencoder and latent scale are used; None for a fresh autoencoder.
      renew: replace weights that were made from other settings; leave it off once a run has trained on them.

    Raises:
      InputError: the preset's tokenizer comes only with a converted checkpoint, `directory` exists and is not a
        checkpoint, or `vae` is not a checkpoint of the preset.
    """
    target = epath.Path(directory)
    model = build_model(sizes)
    if model.has_text and not model.has_own_tokenizer:
        raise InputError(
            f"preset {sizes.preset!r} cannot start from scratch, because its tokenizer comes only with a converted "
            "checkpoint; set model.checkpoint to a directory that star-jax convert made"
        )
    if jax.process_index() == 0:
        made = (target / CONFIG_FILE).is_file()
        if not made or (renew and not _is_made_so(target, sizes, seed, vae)):
            _write(target, sizes, seed, vae, force=made)
    wait_for_all("fresh_checkpoint")
    return target


def _is_made_so(
    target: epath.Path, sizes: ArchitectureConfig, seed: int, vae: str | os.PathLike | None
) -> bool:
    stored, stored_sizes = load_provenance(target), read_config(target)
    if vae is not None:  # the autoencoder's sizes are those of its checkpoint
        sizes = sizes.with_autoencoder(stored_sizes)
    return (stored.get("fresh_seed"), stored.get("fresh_vae"), stored_sizes) == (seed, _place(vae), sizes)


def _place(vae: str | os.PathLike | None) -> str | None:
    return None if vae is None else os.fspath(vae) if is_url(vae) else os.path.abspath(vae)


def _write(
    target: epath.Path, sizes: ArchitectureConfig, seed: int, vae: str | os.PathLike | None, *, force: bool
) -> None:
    if vae is not None:
        sizes = sizes.with_autoencoder(read_config(vae, expect_preset=sizes.preset))
    model = build_model(sizes)
    provenance: dict[str, Any] = {
        "preset": sizes.preset,
        "fresh_seed": seed,
        "fresh_vae": _place(vae),
        "components": {},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with create_checkpoint(target, sizes, provenance, force=force) as partial:
        for name in model.components:
            if name in model.autoencoder_components and vae is not None:
                shutil.copytree(checkpoint_path(vae) / name, partial / name)
                provenance["components"][name] = load_provenance(vae)["components"][name]
                continue
            save_component(partial, name, fresh_component(model, name, seed))
            provenance["components"][name] = {"source": "fresh"}
        if model.has_text:
            model.write_tokenizer(partial)
