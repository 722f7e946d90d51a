"""Chooses the form of an operation for a device. All forms compute the same result; measurements decide.

`star-jax benchmark layers` measures every form; its --write stores the fastest in variants.json, by device kind as
JAX names it. A device that is not in the table uses its platform's defaults.
"""

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import jax

from star_jax.errors import InputError
from star_jax.files import write_json
from star_jax.ops.platform import target_platform

TABLE_FILE = Path(__file__).with_name("variants.json")

# The forms of each operation. A platform without its own default uses the first.
VARIANTS: dict[str, tuple[str, ...]] = {
    "short_attention": ("xla", "cudnn"),  # along the frames of each pixel
    "wide_attention": ("chunked", "xla"),  # one head as wide as the VAE's channels, one frame at a time
    "frames_attention": (
        "pixels_first",
        "frames_first",
    ),  # pixels are moved together, or frames left where they are
    "group_norm": ("two_pass", "one_read"),
    "geglu": ("gelu", "float32_erf"),
}
_PLATFORM_DEFAULTS: dict[str, dict[str, str]] = {
    # Measured on an H200, but nothing about them is specific to that GPU.
    "gpu": {"wide_attention": "xla", "geglu": "float32_erf"},
}
# Forms that only a GPU runs (cuDNN's, and Pallas kernels for Triton).
_GPU_FORMS = {
    "short_attention": ("cudnn",),
    "frames_attention": ("frames_first",),
    "group_norm": ("one_read",),
}
# Part of the key of JAX's caches, so that a program traced with other forms is traced again.
_chosen = jax.make_user_context(())  # pairs (operation, form)


def variant_of(operation: str, platform: str | None = None) -> str:
    """The form of an operation on the device that programs are traced for.

    Args:
      operation: one of `VARIANTS`.
      platform: platform to ask about; by default the one that programs are traced for.
    """
    forms = VARIANTS[operation]
    platform = platform or target_platform()
    if operation in (chosen := dict(_chosen.value)):
        return chosen[operation]
    if platform == jax.default_backend():
        measured = read_table().get(jax.devices()[0].device_kind, {})
        if operation in measured:
            return measured[operation]
    return _PLATFORM_DEFAULTS.get(platform, {}).get(operation, forms[0])


def forms_of(operation: str, platform: str) -> tuple[str, ...]:
    """The forms of an operation that a platform runs."""
    left_out = () if platform == "gpu" else _GPU_FORMS.get(operation, ())
    return tuple(form for form in VARIANTS[operation] if form not in left_out)


def write_table(device_kind: str, variants: dict[str, str]) -> None:
    """Adds the forms of one device kind to the package's table.

    Raises:
      InputError: unknown forms.
      RunError: the file cannot be written.
    """
    _check(variants, "the measurement")
    table = read_table() | {device_kind: read_table().get(device_kind, {}) | variants}
    write_json(TABLE_FILE, dict(sorted(table.items())))
    read_table.cache_clear()


@contextlib.contextmanager
def using(**variants: str) -> Iterator[None]:
    """Traces with the named forms in place of the table's, such as `using(geglu="gelu")`."""
    _check(variants, "the caller")
    with _chosen(tuple(sorted((dict(_chosen.value) | variants).items()))):
        yield


@functools.cache
def read_table() -> dict[str, dict[str, str]]:
    """The measured choices: device kind -> operation -> form.

    Raises:
      InputError: the file is damaged, or names an unknown operation or form.
    """
    try:
        table = json.loads(TABLE_FILE.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {TABLE_FILE}: {error}; install star_jax again") from error
    for kind, variants in table.items():
        _check(variants, f"{TABLE_FILE}, {kind}")
    return table


def _check(variants: dict[str, str], where: str) -> None:
    for operation, form in variants.items():
        if form not in VARIANTS.get(operation, ()):
            choices = ", ".join(VARIANTS.get(operation, VARIANTS))
            raise InputError(f"{where} names variant {operation}={form}; choose one of {choices}")
