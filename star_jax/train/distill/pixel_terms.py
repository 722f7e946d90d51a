"""Loss terms of a one-step student that compare decoded frames with the ground truth.

    w_pixel (y - y*)^2 + b L_DF(y, y*) + w_difference (d - d*)^2 + w_lpips LPIPS(y, y*) + w_dists DISTS(y, y*)

where d is the difference between neighbouring frames. DOVE's second stage (arXiv 2505.16239) has the terms of
pixels and differences, and DISTS; STAR's DF loss needs no network trained elsewhere. Frames are in [-1, 1].
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from star_jax.diffusion.losses import LossConfig, frequency_loss
from star_jax.errors import InputError
from star_jax.evaluation.metrics.dists import dists
from star_jax.evaluation.metrics.lpips import lpips
from star_jax.evaluation.weights import MetricWeights
from star_jax.train.distill.config import OneStepConfig

Tree = dict[str, Any]
METRICS = "metrics"  # component of the networks of LPIPS and DISTS among the frozen weights

_NETWORKS = {"lpips_weight": ("vgg16", "lpips_vgg"), "dists_weight": ("vgg16", "dists")}


def has_pixel_terms(config: OneStepConfig, loss: LossConfig) -> bool:
    """Whether any term needs decoded frames."""
    weights = config.pixel_weight, config.difference_weight, config.lpips_weight, config.dists_weight
    return loss.frequency != "off" or any(weights)


def load_metric_networks(config: OneStepConfig) -> Tree:
    """Loads the networks that the terms need, by name: installed ones, or from `STAR_JAX_METRIC_WEIGHTS`.

    Raises:
      InputError: the weights of a network are not found; the message says how to get them.
    """
    names = dict.fromkeys(name for key, names in _NETWORKS.items() if getattr(config, key) for name in names)
    try:
        return MetricWeights().load(names)[0]
    except InputError as error:
        raise InputError(f"{error}; or set distill.lpips_weight and distill.dists_weight to 0") from error


def pixel_terms(
    config: OneStepConfig,
    loss: LossConfig,
    networks: Tree,
    max_timestep: int,
    decoded: jax.Array,
    truth: jax.Array,
) -> dict[str, jax.Array]:
    """The weighted terms of each frame.

    Args:
      config: weights of the terms.
      loss: settings of the DF loss; its weight b is `loss.beta`.
      networks: see `load_metric_networks`.
      max_timestep: last timestep of the schedule.
      decoded, truth: [B, f, H, W, 3] in [-1, 1].

    Returns:
      `loss_pixel`, `loss_difference`, `loss_df`, `loss_lpips` and `loss_dists`, without those of weight 0; float32
      [B, f].
    """
    terms = {}
    error = decoded - truth
    if config.pixel_weight:
        terms["loss_pixel"] = config.pixel_weight * _per_frame(jnp.square(error))
    if config.difference_weight and error.shape[1] > 1:
        change = jnp.square(error[:, 1:] - error[:, :-1])
        terms["loss_difference"] = config.difference_weight * jnp.broadcast_to(
            _per_frame(change).mean(1, keepdims=True), error.shape[:2]
        )
    if loss.frequency != "off":
        timesteps = jnp.full(len(decoded), config.frequency_timestep, jnp.int32)
        terms["loss_df"] = loss.beta * frequency_loss(loss, decoded, truth, timesteps, max_timestep)
    frames = _levels(decoded), _levels(truth)
    if config.lpips_weight:
        distance = lpips("vgg", networks["vgg16"], networks["lpips_vgg"], *frames)
        terms["loss_lpips"] = config.lpips_weight * distance.reshape(error.shape[:2])
    if config.dists_weight:
        distance = dists(networks["vgg16"], networks["dists"], *frames)
        terms["loss_dists"] = config.dists_weight * distance.reshape(error.shape[:2])
    return terms


def _per_frame(values: jax.Array) -> jax.Array:
    return values.mean((2, 3, 4))


def _levels(frames: jax.Array) -> jax.Array:
    """[B, f, H, W, 3] in [-1, 1] -> [B f, H, W, 3] in 0..255, as the metrics expect."""
    return (rearrange(frames, "b f h w c -> (b f) h w c") + 1) * 127.5
