"""A light decoder that sees the latents and the low-resolution frames."""
