"""Training on one device or many; a run resumes exactly where it stopped.

The package can be called: `star_jax.train(config, workdir)` is `run.train`.
"""

import sys

from star_jax import JobPackage

sys.modules[__name__].__class__ = JobPackage
