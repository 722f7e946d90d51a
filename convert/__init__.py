"""Conversion between PyTorch checkpoints and checkpoint directories: tables, rule engine and export.

The package can be called: `star_jax.convert(sources, directory)` is `converter.convert_checkpoint`.
"""

import sys

from star_jax import JobPackage

sys.modules[__name__].__class__ = JobPackage
