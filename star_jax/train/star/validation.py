"""Periodic validation of STAR: loss by timestep, PSNR of sampled clips, pictures and videos to look at.

All random draws depend on a fixed key and on each sample's position in the data, so that differences between two
steps come from the weights alone.
"""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from star_jax.diffusion.guidance import make_conditioning
from star_jax.diffusion.noise import noise_key
from star_jax.diffusion.sampler import sample
from star_jax.diffusion.windows import make_windows
from star_jax.evaluation.metrics.psnr import psnr_of_error
from star_jax.ops.pixels import enlarge, to_uint8
from star_jax.train.programs import jit_and_find
from star_jax.train.sample_draws import sample_keys
from star_jax.train.star.networks import CastVelocity, StarNetworks
from star_jax.train.star.samples import sample_path, views_of, write_sample, write_strip

Tree = dict[str, Any]
Batch = dict[str, jax.Array]

NUM_BUCKETS = 4  # number of buckets of timesteps, of equal width
SAMPLE_STEPS = 8  # enough to see progress; a final sample takes 15
_SEED = 0
_STRIP_FRAMES = 4


class StarValidation:
    """Measures weights on a fixed set of batches; the programs are compiled at the first measurement.

    Sampling starts like upscaling, but has no guidance. Samples are decoded in groups of `diffusion.decode_group`,
    without the pipeline's colour fix.
    """

    def __init__(
        self,
        networks: StarNetworks,
        loss_terms: Callable[..., dict[str, jax.Array]],
        *,
        steps: int = SAMPLE_STEPS,
        timestep: int | None = None,
    ):
        """See the class.

        Args:
          networks: networks of the objective.
          loss_terms: (trainable, frozen, batch, key, timesteps) -> terms of the loss, each [B].
          steps: number of sampling steps.
          timestep: single timestep at which the loss is measured; None measures it in buckets of all timesteps.
        """
        self.networks, self.loss_terms = networks, loss_terms
        self.buckets = (
            _buckets(networks.model.schedule.num_train_timesteps)
            if timestep is None
            else [(timestep, timestep)]
        )
        self.table = networks.model.solver_table(
            solver="dpmpp_2m_sde", spacing="normal", num_inference_steps=steps
        )
        self._loss_program = jit_and_find(self._loss)
        self._prepare_program = jit_and_find(self._prepare)
        self._compare_program = jit_and_find(self._compare)

    def measure(
        self, trainable: Tree, frozen: Tree, batches: list[Batch], image_path: Path | None
    ) -> dict[str, float]:
        """Measures the given weights.

        Args:
          trainable: the trained weights, or their moving average.
          frozen: the frozen weights.
          batches: prepared batches on the mesh.
          image_path: PNG file to write, with frames of the first clip as columns and low resolution (enlarged),
            output and ground truth as rows. Videos of all clips go beside it (`star_jax.train.star.samples`).

        Returns:
          `validation_loss`, and `validation_loss_<first>_<last>` per bucket of timesteps (both terms, at one fixed
          draw per sample and bucket). From clips, not latents, also `validation_psnr` of the samples and, for
          comparison, `validation_psnr_input` of the enlarged low resolution and `validation_psnr_autoencoder` of
          the ground truth encoded and decoded; each is a mean over clips, in dB.
        """
        measured: list[dict[str, float]] = []
        clip = 0  # number of the next clip
        for i, batch in enumerate(batches):
            scores = {
                f"validation_loss_{first}_{last}": self._loss_program(trainable, frozen, batch, first, last)
                for first, last in self.buckets
            }
            if "gt" in batch:
                context, x0, hint = self._prepare_program(trainable, frozen, batch)
                output = self._upscale(trainable, frozen, context, hint)
                errors, strip, views = self._compare_program(trainable, frozen, batch, output, x0)
                scores |= {
                    name: np.mean([psnr_of_error(e) for e in clips.tolist()])
                    for name, clips in errors.items()
                }
                if image_path is not None:
                    if i == 0:
                        write_strip(image_path, np.asarray(strip))
                    for of_clip in np.asarray(views):
                        write_sample(sample_path(image_path, clip), of_clip)
                        clip += 1
            measured.append({name: float(value) for name, value in scores.items()})
        means = {name: float(np.mean([scores[name] for scores in measured])) for name in measured[0]}
        of_buckets = [value for name, value in means.items() if name.startswith("validation_loss_")]
        return {"validation_loss": float(np.mean(of_buckets)), **means}

    def _loss(
        self, trainable: Tree, frozen: Tree, batch: Batch, first: jax.Array, last: jax.Array
    ) -> jax.Array:
        """Mean loss at timesteps in first..last."""
        key = noise_key(_SEED)

        def draw(index: jax.Array) -> jax.Array:
            return jax.random.randint(jax.random.fold_in(key, index), (), first, last + 1)

        timesteps = jax.vmap(draw)(batch["index"])
        terms = self.loss_terms(trainable, frozen, batch, key, timesteps)
        total: Any = sum(terms.values())
        return total.mean()

    def _prepare(self, trainable: Tree, frozen: Tree, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Text context, and latents of the ground truth and of the low resolution, float32 [B, F, h, w, C]."""
        params = self.networks.cast_params(trainable, frozen)
        keys = sample_keys(noise_key(_SEED), batch)
        return self.networks.context(params, batch), *self.networks.encode(params, batch, keys)

    def _upscale(self, trainable: Tree, frozen: Tree, context: jax.Array, hint: jax.Array) -> jax.Array:
        """Samples latents [B, F, h, w, C], given those of the low resolution in `hint`, of the same shape."""
        key = noise_key(_SEED)
        return sample(
            CastVelocity(self.networks.model, self.networks.lora_scale),
            (trainable, frozen),
            self.networks.model.start(hint, key),
            self.table,
            make_conditioning(context, hint),
            key,
            windows=make_windows(hint.shape[1], hint.shape[1]),
        )

    def _compare(
        self, trainable: Tree, frozen: Tree, batch: Batch, output: jax.Array, x0: jax.Array
    ) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
        """Mean squared errors of the frames, and pictures to look at.

        Args:
          trainable, frozen, batch: see `measure`.
          output: sampled latents [B, F, h, w, C].
          x0: latents of the ground truth.

        Returns:
          Mean squared errors [B] of levels in 0..255; the first clip's strip, uint8 [3, frames, H, W, 3]; and small
          views of all clips, uint8 [B, 3, F, h, w, 3].
        """
        params = self.networks.cast_params(trainable, frozen)
        # One loop decodes both, so that the program holds the decoder once.
        decoded = jax.lax.map(partial(self.networks.decode_clip, params), jnp.stack([output, x0]))
        sampled, coded = to_uint8(decoded).astype(jnp.float32)
        truth = batch["gt"].astype(jnp.float32)
        height, width = truth.shape[2:4]
        clips = {
            "_input": enlarge(batch["lq"].astype(jnp.float32), (height, width)),
            "": sampled,
            "_autoencoder": coded,
        }
        errors = {
            f"validation_psnr{name}": _whole(jnp.square(clip - truth).mean((1, 2, 3, 4)))
            for name, clip in clips.items()
        }
        shown = [clips["_input"], clips[""], truth]
        strip = jnp.rint(jnp.stack([clip[0, :_STRIP_FRAMES] for clip in shown])).astype(jnp.uint8)
        return errors, _whole(strip), _whole(views_of(shown))


def _buckets(num_timesteps: int) -> list[tuple[int, int]]:
    """First and last timestep of each bucket."""
    edges = np.linspace(0, num_timesteps, NUM_BUCKETS + 1).astype(int)
    return [(int(first), int(last) - 1) for first, last in itertools.pairwise(edges)]


def _whole(x: jax.Array) -> jax.Array:
    """Replicates an array over the current mesh, so that the host can read it."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())
