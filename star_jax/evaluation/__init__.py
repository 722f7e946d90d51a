"""Scores of restored videos, with and without ground truth: evaluate.py runs them, metrics/ has a file for each."""
