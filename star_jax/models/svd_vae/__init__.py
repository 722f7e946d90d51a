"""Stable Video Diffusion's autoencoder: frames are encoded one by one and decoded together."""
