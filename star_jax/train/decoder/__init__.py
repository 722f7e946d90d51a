"""Training of a light decoder: its inputs are the latents from the network and the low-resolution frames."""
