"""Scores as a table, JSON, CSV, plots and a page."""
