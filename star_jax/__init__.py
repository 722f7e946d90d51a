"""star_jax: STAR video super-resolution (arXiv 2501.02976) in JAX/Flax.

The main jobs of the command `star-jax`; each is loaded on first use:

  star_jax.upscale(inputs, output, ...)         upscales videos and images to files
  star_jax.StarPipeline.from_pretrained(...)    upscales arrays
  star_jax.convert(sources, directory, ...)     converts PyTorch weights to a checkpoint directory
  star_jax.export(directory, file, ...)         converts a checkpoint directory back to PyTorch
  star_jax.compare(before, after, page, ...)    writes a page that compares two videos or images
  star_jax.train(config, workdir, ...)          starts or resumes training
  star_jax.evaluate(results, truth, ...)        scores results
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from star_jax.convert.converter import convert_checkpoint as convert
    from star_jax.convert.exporter import export_checkpoint as export
    from star_jax.evaluation.before_after import compare
    from star_jax.evaluation.evaluate import evaluate
    from star_jax.inference.files import upscale
    from star_jax.inference.pipeline import StarPipeline
    from star_jax.train.run import train

__all__ = ["StarPipeline", "compare", "convert", "evaluate", "export", "train", "upscale"]

# Importing any of these takes seconds, so `import star_jax` and `star-jax --help` do not.
_JOBS = {
    "StarPipeline": ("star_jax.inference.pipeline", "StarPipeline"),
    "compare": ("star_jax.evaluation.before_after", "compare"),
    "convert": ("star_jax.convert.converter", "convert_checkpoint"),
    "evaluate": ("star_jax.evaluation.evaluate", "evaluate"),
    "export": ("star_jax.convert.exporter", "export_checkpoint"),
    "train": ("star_jax.train.run", "train"),
    "upscale": ("star_jax.inference.files", "upscale"),
}


class JobPackage(ModuleType):
    """A package that can also be called as a job: `star_jax.train.loop` and `star_jax.train(config, workdir)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the job that has the package's name."""
        return _load(self.__name__.rpartition(".")[2])(*args, **kwargs)


def __getattr__(name: str) -> Any:
    if name in ("convert", "train"):
        return importlib.import_module(f"star_jax.{name}")
    if name in _JOBS:
        return _load(name)
    raise AttributeError(f"module 'star_jax' has no attribute {name!r}")


def _load(name: str) -> Any:
    module, attribute = _JOBS[name]
    return getattr(importlib.import_module(module), attribute)
