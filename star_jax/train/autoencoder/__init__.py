"""Training a small autoencoder from nothing: its settings, its objective, and the checkpoint that it leaves."""
