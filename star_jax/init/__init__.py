"""Weights that come from no source: untrained networks to start from, and random ones for tests and benchmarks."""
