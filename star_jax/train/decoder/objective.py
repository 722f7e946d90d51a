"""Training a light decoder (`star_jax.models.light_decoder`) on a frozen network's latents; the loss is in `loss`.

The fidelity f is drawn for each clip and given to the decoder, so that one set of weights learns both the mean of
all plausible frames (f = 1) and detail that looks right (f = 0). The metric's networks are frozen; their weights
are found in the same way as those of `star-jax evaluate`.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from star_jax.checkpoints.directory import load_component, read_config
from star_jax.config import LightDecoderConfig
from star_jax.data.restored import RestoredSource
from star_jax.diffusion.noise import named_key
from star_jax.errors import InputError
from star_jax.evaluation.metrics.lpips import lpips
from star_jax.evaluation.metrics.psnr import psnr_of_error
from star_jax.evaluation.weights import MetricWeights
from star_jax.files import write_png
from star_jax.models.architectures import build_model
from star_jax.models.light_decoder.decoder import COMPONENT, LOW_FACTOR, LightDecoder
from star_jax.models.rngs import InitRngs
from star_jax.ops.pixels import enlarge, to_float, to_uint8
from star_jax.train.decoder.config import DecoderExperimentConfig
from star_jax.train.decoder.loss import (
    HEAD_CHANNELS,
    NETWORKS,
    cuts,
    hinge,
    judged,
    nearness,
    perceptual,
    seems_true,
)
from star_jax.train.decoder.start import linear_start
from star_jax.train.distill.heads import HeadsOf
from star_jax.train.programs import jit_and_find
from star_jax.train.sample_draws import sample_keys

Tree = dict[str, Any]

logger = logging.getLogger(__name__)

HEADS = "heads"


class DecoderObjective:
    """Implements `star_jax.train.objective.Objective`.

    The decoder computes in the model's `auto` dtype (bfloat16 on GPUs and TPUs), losses and metrics in float32.

    Args:
      config: settings of the run.
      clips: folder of the clips (`star_jax.data.restored`) that the linear part is fitted to.

    Raises:
      InputError: the clips' scale is not 4, their size does not fit the latents, or LPIPS has no weights.
    """

    def __init__(self, config: DecoderExperimentConfig, clips: Path | None = None):
        self.config, self.clips = config, clips
        self.model = build_model(read_config(config.model.checkpoint))
        data, factor = config.data, self.model.size_rule.pixels_per_latent
        if data.make_recipe().scale != LOW_FACTOR or factor != 2 * LOW_FACTOR:
            raise InputError(
                f"a light decoder needs a scale of {LOW_FACTOR} and latents of {2 * LOW_FACTOR} pixels; the recipe "
                f"has a scale of {data.make_recipe().scale}, and the model has latents of {factor} pixels"
            )
        needed = self.model.size_rule.padded_size(data.height, data.width)
        if needed != (data.height, data.width):
            raise InputError(
                f"data.height x data.width is {data.height}x{data.width}; choose {needed[0]}x{needed[1]}, which "
                "needs no padding"
            )
        self.sizes = LightDecoderConfig(config.model.channels, config.model.blocks)
        self._networks: dict[str, dict] = {}
        if config.loss.perceptual_weight or config.loss.adversarial_weight:
            given = [config.loss.metric_weights] if config.loss.metric_weights else []
            self._networks = MetricWeights(given).load(NETWORKS)[0]
        self.heads = (
            HeadsOf(HEAD_CHANNELS, config.loss.head_width) if config.loss.adversarial_weight else None
        )
        self._decode = jit_and_find(self._decoded)

    def module(self, seed: int = 0) -> LightDecoder:
        """The decoder with fresh weights."""
        return LightDecoder(
            self.sizes,
            self.model.latent_channels,
            dtype=self.model.dtype,
            param_dtype=jnp.float32,
            rngs=InitRngs(seed),
        )

    def abstract_params(self) -> tuple[Tree, Tree]:
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), nnx.to_pure_dict(self._split()[1])
        )
        frozen = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), self._networks)
        heads = {} if self.heads is None else {HEADS: self.heads.shapes}
        return {COMPONENT: shapes} | heads, frozen

    def load(self, abstract_trainable: Tree, abstract_frozen: Tree) -> tuple[Tree, Tree]:
        """The decoder's initial weights, and the metric's networks."""
        fresh = {COMPONENT: self._start()}
        if self.heads is not None:
            fresh[HEADS] = self.heads.fresh(self.config.train.seed + 1)

        def place(tree: Tree, abstract: Tree) -> Tree:
            return jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), tree, abstract)

        networks = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), self._networks)
        return place(fresh, abstract_trainable), place(networks, abstract_frozen)

    def _start(self) -> Tree:
        """The checkpoint's decoder if it has one of these sizes, else fresh weights from train.seed.

        The linear part of fresh weights is fitted by least squares.
        """
        known, directory = self.model.config.light_decoder, self.config.model.checkpoint
        if isinstance(known, LightDecoderConfig) and (known.channels, known.blocks) == (
            self.sizes.channels,
            self.sizes.blocks,
        ):
            logger.info("training starts from the decoder of %s", directory)
            return load_component(directory, COMPONENT, self.model.abstract(COMPONENT))
        fresh = nnx.to_pure_dict(nnx.state(self.module(self.config.train.seed)))
        return fresh | {"linear": linear_start(RestoredSource(str(self.clips)))}

    def prepare_batch(self, host_batch: dict[str, Any]) -> dict[str, Any]:
        index = np.asarray(host_batch["index"]).astype(np.int32)
        return {"index": index, **{name: host_batch[name] for name in ("gt", "lq", "latents")}}

    def abstract_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        data = self.config.data
        size, clip = (data.height, data.width), (batch_size, data.num_frames)

        def shape(divisor: int, channels: int, dtype: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((*clip, *(n // divisor for n in size), channels), dtype)

        return {
            "index": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
            "gt": shape(1, 3, jnp.uint8),
            "lq": shape(LOW_FACTOR, 3, jnp.uint8),
            "latents": shape(2 * LOW_FACTOR, self.model.latent_channels, jnp.float16),
        }

    def loss(
        self, trainable: Tree, frozen: Tree, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        config, keys = self.config.loss, sample_keys(key, batch)
        fidelity = jax.vmap(self._draw_fidelity)(keys)
        detail = 1 - fidelity
        truth = to_float(batch["gt"])
        error = self._decoded(_with_fixed_linear(trainable), batch, fidelity) - truth
        terms: dict[str, Any] = {
            "loss_pixel": nearness(error, fidelity).mean(),
            "loss_motion": jnp.abs(jnp.diff(error, axis=1)).mean(),
        }
        loss = terms["loss_pixel"] + config.motion_weight * terms["loss_motion"]
        if not self._networks:
            return loss, terms
        cut_decoded, cut_truth = (cuts(keys, clips) for clips in (truth + error, truth))
        of_detail = detail / jnp.maximum(detail.sum(), 1e-6)
        if config.perceptual_weight:
            distance = perceptual(frozen, cut_decoded, cut_truth)
            terms["lpips_of_detail"] = (of_detail * distance).sum()
            loss += config.perceptual_weight * (detail * distance).mean()
        if self.heads is not None:
            features, truths = judged(frozen, cut_decoded), judged(frozen, cut_truth)
            stop = jax.lax.stop_gradient
            seeming = seems_true(self.heads(stop(trainable[HEADS]), features))
            taught = hinge(*(self.heads(trainable[HEADS], stop(seen)) for seen in (truths, features)))
            terms["seems_true"] = (of_detail * seeming).sum()
            terms["loss_heads"] = (of_detail * taught).sum()
            loss += terms["loss_heads"] - config.adversarial_weight * (detail * seeming).mean()
        return loss, terms

    def validate(
        self, trainable: Tree, frozen: Tree, batches: list[dict[str, Any]], image_path: Path | None
    ) -> dict[str, float]:
        """PSNR and LPIPS at fidelity 0 and 1.

        The picture shows the first clips: low resolution, detail (0), fidelity (1) and ground truth.
        """
        scores: dict[str, list[float]] = {}
        rows = []
        for batch in batches:
            truth = np.asarray(to_float(batch["gt"]))
            ends = {}
            for name, value in (("detail", 0.0), ("fidelity", 1.0)):
                fidelity = jnp.full((len(truth),), value)
                ends[name] = np.clip(jax.device_get(self._decode(trainable, batch, fidelity)), -1, 1)
                for x, y in zip(truth, ends[name], strict=True):
                    error = float(np.square(x - y).mean())
                    scores.setdefault(f"validation_psnr_{name}", []).append(psnr_of_error(error, peak=2.0))
                    if self._networks:
                        pair = (127.5 * (np.asarray(clip[-1:]) + 1) for clip in (y, x))
                        distance = lpips("alex", *(frozen[network] for network in NETWORKS), *pair)
                        scores.setdefault(f"validation_lpips_{name}", []).append(float(distance[0]))
            low = np.asarray(enlarge(to_float(batch["lq"]), truth.shape[2:4]))
            rows += [np.concatenate([low, *ends.values(), truth], axis=3)[:, -1]]
        if image_path is not None:
            sheet: Any = np.concatenate(np.concatenate(rows)[:6], axis=0)
            write_png(image_path, np.asarray(to_uint8(sheet)))
        return {name: float(np.mean(values)) for name, values in scores.items()}

    def _split(self) -> Any:
        return nnx.split(nnx.eval_shape(self.module))

    def _decoded(self, params: Tree, batch: dict[str, jax.Array], fidelity: jax.Array) -> jax.Array:
        decoder = nnx.merge(self._split()[0], params[COMPONENT])
        return decoder(batch["latents"].astype(jnp.float32), to_float(batch["lq"]), fidelity)[0]

    def _draw_fidelity(self, key: jax.Array) -> jax.Array:
        config = self.config.loss
        which, between = jax.random.uniform(named_key(key, "fidelity"), (2,))
        between = jnp.where(which < config.fidelity_share + config.detail_share, 0.0, between)
        return jnp.where(which < config.fidelity_share, 1.0, between)


def _with_fixed_linear(params: Tree) -> Tree:
    """Freezes the linear part as least squares fitted it.

    Its hundreds of inputs are highly correlated, so that Adam's equal steps in all weights would undo the fit.
    """
    decoder = params[COMPONENT]
    return params | {COMPONENT: decoder | {"linear": jax.lax.stop_gradient(decoder["linear"])}}
