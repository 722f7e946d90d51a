"""Scores of restored videos against ground truth: PSNR, SSIM, flicker, beside an interpolation of the input."""
