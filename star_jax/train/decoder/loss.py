"""The loss of a light decoder, in parts.

    L(f) = f P(y, x) + (1 - f) |y - x|_1 + w_motion |dy - dx|_1 + (1 - f) (w_lpips LPIPS(y, x) + w_adv A(y))

where y = decode(z, low, f), x is the ground truth, and d is the difference of neighbouring frames. P is a tenth of
the log of the clip's mean squared error, whose gradient is that of PSNR (Chen et al., NAFNet, arXiv 2204.04676):
the smaller the error of a clip, the larger its weight. LPIPS (Zhang et al. 2018) and A are computed on a few frames
of a clip, cropped at a random place: the first convolution of their network has a stride of four pixels, and a
decoder trained with crops at one place would show that grid in its pictures.

A is a hinge loss of heads on pixels and on the features of LPIPS' network, which is frozen (Sauer et al.,
Projected GANs, arXiv 2111.01007). The heads are trained in the same step: their loss sends no gradient to the
decoder, and the decoder's loss sends none to them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from star_jax.diffusion.noise import named_key
from star_jax.evaluation.metrics.lpips import lpips, lpips_features
from star_jax.models.light_decoder.decoder import pack
from star_jax.train.distill.heads import normalised

Tree = dict[str, Any]

NETWORKS = ("alexnet", "lpips_alex")
HEAD_CHANNELS = (12, 64, 192, 384)  # channels of the inputs that `judged` returns
_PERCEPTUAL_FRAMES = 3
_LARGEST_SHIFT = 8  # pixels; a multiple of the stride of LPIPS' first convolution
_LEAST_SQUARE = 1e-4  # with a range of 2, this is 46 dB, which is close enough


def nearness(error: jax.Array, fidelity: jax.Array) -> jax.Array:
    """The pixel term f P + (1 - f) L1 of each clip [B], for an error [B, F, H, W, 3] of frames in [-1, 1]."""
    absolute = jnp.abs(error).mean((1, 2, 3, 4))
    logarithm = jnp.log(jnp.square(error).mean((1, 2, 3, 4)) + _LEAST_SQUARE) - jnp.log(_LEAST_SQUARE)
    return fidelity * 0.1 * logarithm + (1 - fidelity) * absolute


def cuts(keys: jax.Array, clips: jax.Array) -> jax.Array:
    """Random crops of a few frames of each clip [B, F, H, W, 3], as levels 0 to 255: [B, f, h, w, 3]."""
    return 127.5 * (jax.vmap(_cut)(keys, clips) + 1)


def perceptual(networks: Tree, decoded: jax.Array, truth: jax.Array) -> jax.Array:
    """LPIPS of each clip [B], for crops [B, f, h, w, 3]."""
    frames = (rearrange(cut, "b f h w c -> (b f) h w c") for cut in (decoded, truth))
    distances = lpips("alex", *(networks[name] for name in NETWORKS), *frames)
    return rearrange(distances, "(b f) -> b f", b=len(decoded)).mean(axis=1)


def judged(networks: Tree, cut: jax.Array) -> list[jax.Array]:
    """Inputs of the heads for crops [B, f, h, w, 3]: pixels, 2x2 as channels, and features [B, f, ., ., C]."""
    flat = rearrange(cut, "b f h w c -> (b f) h w c")
    features = lpips_features("alex", networks["alexnet"], flat)[: len(HEAD_CHANNELS) - 1]
    of_clips = [rearrange(x, "(b f) h w c -> b f h w c", b=len(cut)) for x in normalised(features)]
    return [pack(cut / 127.5 - 1), *of_clips]


def seems_true(logits: Sequence[jax.Array]) -> jax.Array:
    """How real each clip looks to the heads, [B]: the mean logit over heads and places."""
    return jnp.mean(jnp.stack([x.mean((1, 2, 3, 4)) for x in logits]), axis=0)


def hinge(of_truth: Sequence[jax.Array], of_decoded: Sequence[jax.Array]) -> jax.Array:
    """The heads' loss: the hinge loss of each clip, [B]."""
    sides = [
        seems_true([jax.nn.relu(1 - sign * x) for x in logits])
        for sign, logits in ((1, of_truth), (-1, of_decoded))
    ]
    return sides[0] + sides[1]


def _cut(key: jax.Array, frames: jax.Array) -> jax.Array:
    """A random crop of consecutive frames of [F, H, W, 3]."""
    count = min(_PERCEPTUAL_FRAMES, len(frames))
    first = jax.random.randint(named_key(key, "frames"), (), 0, len(frames) - count + 1)
    shift = jax.random.randint(named_key(key, "shift"), (2,), 0, _LARGEST_SHIFT)
    size = (count, frames.shape[1] - _LARGEST_SHIFT, frames.shape[2] - _LARGEST_SHIFT, 3)
    return jax.lax.dynamic_slice(frames, (first, *shift, 0), size)
