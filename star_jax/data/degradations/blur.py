"""Convolution of 8-bit frames with blur kernels, in as few one-dimensional passes as 8 bits need."""

import cv2
import numpy as np

# Largest change of an output level from dropping kernel taps or separable terms.
_LEVEL_ERROR = 0.25
# With more separable terms than this, the two-dimensional filter is as fast (measured at 21 x 21).
_MAX_TERMS = 6


def blur(frame: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolves a frame with a kernel; borders are reflected without repeating the edge.

    The kernel is split into a sum of separable terms (its singular vectors): as many as keep every output
    within a quarter of a level, but at most six. Gaussians along the axes take 1, most others 2 to 5.

    Args:
      frame: uint8 [H, W, 3].
      kernel: float [k, k], odd k, sum 1.

    Returns:
      uint8 [H, W, 3].
    """
    kernel = trim(kernel)
    terms = separable_terms(kernel)
    if terms is None:
        return cv2.filter2D(frame, -1, kernel.astype(np.float32), borderType=cv2.BORDER_REFLECT_101)
    (column, row), *others = terms
    total = _filter(frame, cv2.CV_8U if not others else cv2.CV_32F, column, row)
    for column, row in others:
        cv2.add(total, _filter(frame, cv2.CV_32F, column, row), dst=total)
    return total if not others else cv2.convertScaleAbs(np.maximum(total, 0, out=total))


def _filter(frame: np.ndarray, depth: int, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    return cv2.sepFilter2D(frame, depth, row, column, borderType=cv2.BORDER_REFLECT_101)


def trim(kernel: np.ndarray) -> np.ndarray:
    """Cuts off the outer rings that cannot change an output by a quarter of a level, and renormalises."""
    while kernel.shape[0] > 1:
        inner = kernel[1:-1, 1:-1]
        if 255 * (np.abs(kernel).sum() - np.abs(inner).sum()) > _LEVEL_ERROR:
            break
        kernel = inner
    return kernel / kernel.sum()


def separable_terms(kernel: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Splits a kernel into (column, row) vectors whose outer products add up to it within 8-bit rounding.

    Args:
      kernel: [k, k], symmetric about its centre, as all blur kernels here are.

    Returns:
      float32 vectors of length k; None if more than six terms would be needed.
    """
    columns, scales, rows = np.linalg.svd(kernel)
    terms = []
    rest = kernel.copy()
    for column, scale, row in zip(columns.T, scales, rows, strict=True):
        column = _symmetric(column * np.sqrt(scale))
        row = _symmetric(row * np.sqrt(scale))
        terms.append((column.astype(np.float32), row.astype(np.float32)))
        rest -= np.outer(column, row)
        if 255 * np.abs(rest).sum() <= _LEVEL_ERROR:
            return terms
        if len(terms) == _MAX_TERMS:
            return None
    return None


def _symmetric(vector: np.ndarray) -> np.ndarray:
    """Makes an almost (anti)symmetric vector exactly (anti)symmetric: OpenCV then filters twice as fast."""
    flipped = vector[::-1]
    return (vector + np.copysign(1, vector @ flipped) * flipped) / 2
