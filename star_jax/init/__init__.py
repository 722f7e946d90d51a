"""Weights that no source gives: untrained networks to start from, and random ones for tests and benchmarks."""
