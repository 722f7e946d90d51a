"""Training an autoencoder of AutoencoderKLTemporalDecoder's architecture from scratch, for small models.

    L = |y - x| + gradient_weight |grad y - grad x| + kl_weight KL(q(z|x) || N(0, 1)),    z ~ q, y = decode(z)

after Rombach et al. (arXiv 2112.10752, section 3.1), with the difference of neighbouring pixels in place of their
perceptual and adversarial terms, which need networks trained elsewhere. All weights are trained. Frames are decoded
together, as the pipeline decodes its groups. A share of the clips is degraded and enlarged again, because the
encoder sees such clips at inference, and the network has to read their latents.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.diffusion.noise import named_key
from star_jax.errors import InputError
from star_jax.evaluation.metrics.psnr import psnr_of_error
from star_jax.files import write_png
from star_jax.init.component import fresh_component
from star_jax.models.architectures import build_model
from star_jax.ops.pixels import enlarge, to_float, to_uint8
from star_jax.presets import get_preset
from star_jax.train.autoencoder.config import VaeExperimentConfig
from star_jax.train.programs import jit_and_find
from star_jax.train.sample_draws import sample_keys, sample_noise

Tree = dict[str, Any]


class VaeObjective:
    """Implements `star_jax.train.objective.Objective`; computes in float32, like the pipeline's autoencoder.

    Raises:
      InputError: the size of the clips is not a multiple of the pixels per latent.
    """

    def __init__(self, config: VaeExperimentConfig):
        self.config, self.sizes = config, get_preset(config.model.preset)
        # In float32; the scale of the latents is measured at the end.
        self.model = build_model(self.sizes.with_scaling_factor(1.0))
        factor, data = self.model.size_rule.pixels_per_latent, config.data
        if data.height % factor or data.width % factor:
            raise InputError(
                f"data.height x data.width is {data.height}x{data.width}; choose multiples of {factor}"
            )
        self._reconstruct = jit_and_find(self._reconstruction)

    def abstract_params(self) -> tuple[Tree, Tree]:
        return self.model.abstract_params(self.model.autoencoder_components), {}

    def load(self, abstract_trainable: Tree, abstract_frozen: Tree) -> tuple[Tree, Tree]:
        """Fresh weights from train.seed; no file is read."""
        del abstract_frozen
        fresh = {
            name: fresh_component(self.model, name, self.config.train.seed)
            for name in self.model.autoencoder_components
        }
        return jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), fresh, abstract_trainable), {}

    def prepare_batch(self, host_batch: dict[str, Any]) -> dict[str, Any]:
        index = np.asarray(host_batch["index"]).astype(np.int32)
        return {"index": index, **{name: host_batch[name] for name in ("gt", "lq")}}

    def abstract_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        data = self.config.data
        scale = data.make_recipe().scale
        sizes = {"gt": (data.height, data.width), "lq": (data.height // scale, data.width // scale)}
        clips = {
            name: jax.ShapeDtypeStruct((batch_size, data.num_frames, *size, 3), jnp.uint8)
            for name, size in sizes.items()
        }
        return {"index": jax.ShapeDtypeStruct((batch_size,), jnp.int32), **clips}

    def loss(
        self, trainable: Tree, frozen: Tree, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        config = self.config.loss
        keys = sample_keys(key, batch)
        draws = jax.vmap(lambda key: jax.random.uniform(named_key(key, "degraded")))(keys)
        chosen = (draws < config.degraded_share)[:, None, None, None, None]
        frames = jnp.where(chosen, _enlarged(batch), to_float(batch["gt"]))
        posterior, _ = self.model.encode(trainable, frames)
        latents = posterior.sample(sample_noise(keys, "posterior", posterior.mean.shape))
        decoded = self._decode(trainable, latents)
        terms: dict[str, Any] = {
            "loss_pixel": jnp.abs(decoded - frames).mean(),
            "loss_gradient": sum(jnp.abs(step).mean() for step in _differences(decoded - frames)),
            "kl": 0.5 * (posterior.mean**2 + jnp.exp(posterior.logvar) - 1 - posterior.logvar).mean(),
        }
        loss = (
            terms["loss_pixel"]
            + config.gradient_weight * terms["loss_gradient"]
            + config.kl_weight * terms["kl"]
        )
        return loss, terms

    def validate(
        self, trainable: Tree, frozen: Tree, batches: list[dict[str, Any]], image_path: Path | None
    ) -> dict[str, float]:
        """PSNR (dB) of the reconstructions of clean and degraded clips; the picture shows the first of each."""
        parts = [jax.device_get(self._reconstruct(trainable, batch)) for batch in batches]
        scores = {}
        for name in ("clean", "degraded"):
            errors = [np.square(x - y).mean() for part in parts for x, y in zip(*part[name], strict=True)]
            scores[f"validation_psnr_{name}"] = float(
                np.mean([psnr_of_error(float(e), peak=2.0) for e in errors])
            )
        if image_path is not None:
            rows = [np.concatenate([*part[name]], axis=3)[:, 0] for part in parts[:1] for name in part]
            sheet: Any = np.concatenate([row for group in rows for row in group[:4]], axis=0)
            write_png(image_path, np.asarray(to_uint8(sheet)))
        return scores

    def _reconstruction(self, params: Tree, batch: dict[str, jax.Array]) -> dict[str, Any]:
        """(frames, decoded) of the clean and of the degraded clips, in [-1, 1]."""
        clips = {"clean": to_float(batch["gt"]), "degraded": _enlarged(batch)}
        return {
            name: (frames, jnp.clip(self._decode(params, self.model.encode(params, frames)[0].mode()), -1, 1))
            for name, frames in clips.items()
        }

    def _decode(self, params: Tree, latents: jax.Array) -> jax.Array:
        """Decodes latents that are not scaled."""
        return self.model.decode(params, self.model.scaled(latents))[0]

    def scaling_factor(self, params: Tree, batches: list[dict[str, Any]]) -> float:
        """Factor that gives the latents of clean clips a standard deviation of 1.

        See `ArchitectureConfig.with_scaling_factor`.
        """
        encode = jit_and_find(lambda params, frames: self.model.encode(params, frames)[0].mode())
        latents = [np.asarray(encode(params, to_float(batch["gt"]))) for batch in batches]
        return float(1 / np.std(np.concatenate(latents)))


def _enlarged(batch: dict[str, jax.Array]) -> jax.Array:
    """Enlarges low-resolution clips bilinearly to the ground truth's size, as the pipeline does before encoding."""
    height, width = batch["gt"].shape[2:4]
    return enlarge(to_float(batch["lq"]), (height, width))


def _differences(frames: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Differences between vertical and between horizontal neighbours in [B, F, H, W, 3]."""
    return frames[:, :, 1:] - frames[:, :, :-1], frames[:, :, :, 1:] - frames[:, :, :, :-1]
