"""Training a small autoencoder from scratch: its settings, its objective, and the checkpoint that a run writes."""
