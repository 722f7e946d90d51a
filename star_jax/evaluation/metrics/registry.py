"""The scores by their names in `--metrics`."""

from collections.abc import Sequence

from star_jax.errors import InputError
from star_jax.evaluation.metrics.dists import DISTS
from star_jax.evaluation.metrics.dover import DOVER
from star_jax.evaluation.metrics.ewarp import EWARP, EWARP_CORRECTED
from star_jax.evaluation.metrics.flicker import FLICKER
from star_jax.evaluation.metrics.ilniqe import ILNIQE
from star_jax.evaluation.metrics.lpips import LPIPS, LPIPS_VGG
from star_jax.evaluation.metrics.metric import Metric
from star_jax.evaluation.metrics.niqe import NIQE
from star_jax.evaluation.metrics.psnr import PSNR, PSNR_STUDIO, PSNR_Y
from star_jax.evaluation.metrics.ssim import SSIM, SSIM_Y
from star_jax.evaluation.metrics.tof import TOF
from star_jax.evaluation.metrics.vmaf import VMAF, VMAF_NEG

METRICS: dict[str, Metric] = {
    "psnr": PSNR,
    "ssim": SSIM,
    "psnr_y": PSNR_Y,
    "ssim_y": SSIM_Y,
    "psnr_y16": PSNR_STUDIO,
    "flicker": FLICKER,
    "lpips": LPIPS,
    "lpips_vgg": LPIPS_VGG,
    "dists": DISTS,
    "ewarp": EWARP,
    "ewarp_corrected": EWARP_CORRECTED,
    "tof": TOF,
    "vmaf": VMAF,
    "vmaf_neg": VMAF_NEG,
    "dover": DOVER,
    "niqe": NIQE,
    "ilniqe": ILNIQE,
}
DEFAULT = ("psnr", "ssim", "psnr_y", "ssim_y", "flicker")


def choose(names: Sequence[str]) -> dict[str, Metric]:
    """Metrics by name, in the given order.

    Raises:
      InputError: a name is unknown or given twice.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise InputError(f"metric is {unknown[0]!r}; choose from {', '.join(METRICS)}")
    if len(set(names)) < len(names):
        raise InputError(f"--metrics is {','.join(names)}; give each name once")
    return {name: METRICS[name] for name in names}
