"""Training of a light decoder: it sees the latents that the network makes, and the low-resolution frames."""
