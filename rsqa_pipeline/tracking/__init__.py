"""Runs, metrics and models, behind a small protocol."""
