"""Clips and settings shared by the tests that upscale, so that they share compiled programs too."""

from typing import Any

import numpy as np

# Four frames in one window, guided, with a solver that adds noise.
SHORT: dict[str, Any] = {"num_inference_steps": 2}
# Six frames in two windows, the conditional branch alone; a single step adds no noise.
LONG: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 1.0, "window": 4}


def moving_clip(num_frames: int, height: int = 20, width: int = 16) -> np.ndarray:
    """uint8 [F, H, W, 3]: coloured waves that move by a pixel per frame."""
    frame, y, x = np.meshgrid(np.arange(num_frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin((x + frame) / 3), np.cos((y - frame) / 4), np.sin((x + y + frame) / 5)]
    return np.round(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)
