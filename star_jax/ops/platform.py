"""Which platform programs are traced for: this process's, or one to compile for ahead of time."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar("target_platform", default=None)


def target_platform() -> str:
    """The platform that programs are being traced for: the default backend's, or that of `targeting`."""
    return _target.get() or jax.default_backend()


@contextlib.contextmanager
def targeting(platform: str) -> Iterator[None]:
    """Traces for another platform than this process runs on (ahead-of-time compilation for TPUs)."""
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)
