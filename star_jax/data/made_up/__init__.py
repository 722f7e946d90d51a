"""Synthetic videos: `synthetic` for tests and benchmarks, `scenes` to train a small model on."""
