"""Conversion between PyTorch checkpoints and checkpoint directories: tables, engine, export."""
