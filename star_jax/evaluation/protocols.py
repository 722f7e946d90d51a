"""Conventions of published tables: scores, frames and crop."""

from dataclasses import dataclass

from star_jax.errors import InputError


@dataclass(frozen=True)
class Protocol:
    """A published way to score.

    Attributes:
      metrics: scores of the table that this project computes.
      missing: the other scores of the table.
      frames: numbers of the frames of each clip that are scored; None for all frames.
      crop: whether the common top-left part is scored if sizes differ.
      source: publication that states the conventions.
      shorter: whether the first frames that result and truth share are scored if lengths differ.
    """

    metrics: tuple[str, ...]
    missing: tuple[str, ...]
    frames: tuple[int, ...] | None
    crop: bool
    source: str
    shorter: bool = False


PROTOCOLS = {
    "star-table1": Protocol(
        ("psnr", "ssim_y", "lpips", "dover", "ewarp"),
        (),
        frames=None,
        crop=True,
        source="STAR, table 1 (UDM10, REDS30, OpenVid30): pyiqa's psnr (RGB), ssim (Y), lpips (AlexNet); "
        "DOVER; EvalCrafter's warping error; means over frames, then clips",
    ),
    "dove": Protocol(
        ("psnr", "ssim_y", "lpips", "dists", "dover", "ewarp"),
        ("CLIP-IQA", "FasterVQA"),
        frames=None,
        crop=True,
        source="DOVE, eval_metrics.py: pyiqa's psnr (RGB), ssim (Y), lpips (AlexNet), dists (no resize); "
        "top-left crop, the frames of the shorter clip",
        shorter=True,
    ),
    "videolq": Protocol(
        ("niqe", "ilniqe"),
        ("NRQM", "BRISQUE"),
        frames=(0, 50, 99),
        crop=False,
        source="RealBasicVSR on VideoLQ: scores without ground truth of frames 0, 50 and 99",
    ),
}


def get_protocol(name: str) -> Protocol:
    """A protocol by its name.

    Raises:
      InputError: no protocol has that name.
    """
    if name not in PROTOCOLS:
        raise InputError(f"protocol is {name!r}; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
