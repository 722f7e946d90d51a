"""A checkpoint of untrained networks, for runs that start from nothing, or from an autoencoder."""

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
    """Writes fresh weights (`star_jax.init.component`), unless an earlier start did; process 0 writes, all wait.

    Args:
      directory: checkpoint directory, on a disk that all processes see, or in a bucket.
      sizes: sizes of the networks.
      seed: seed of the weights.
      vae: checkpoint of the same preset whose autoencoder is taken, with its scale of latents; None: a fresh one.
      renew: replace weights that an earlier start made otherwise; a run that has trained on them keeps them.

    Raises:
      InputError: the sizes' text encoder has a vocabulary that only a converted checkpoint has, `directory` exists
        and is something else, or `vae` is no checkpoint of the preset.
    """
    target = epath.Path(directory)
    model = build_model(sizes)
    if model.has_text and not model.has_own_tokenizer:
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


def _is_made_so(
    target: epath.Path, sizes: ArchitectureConfig, seed: int, vae: str | os.PathLike | None
) -> bool:
    stored, stored_sizes = load_provenance(target), read_config(target)
    if vae is not None:  # then the autoencoder's sizes are those that its checkpoint had
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
