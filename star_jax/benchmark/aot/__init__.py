"""Programs compiled ahead of time for TPUs or GPUs: whether they fit, what they compute, and what they exchange."""
