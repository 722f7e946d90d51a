"""STAR's second backbone: CogVideoX's diffusion transformer with LIEM, and its causal 3-D autoencoder."""
