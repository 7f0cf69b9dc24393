"""Tracking of runs, metrics and models behind a small protocol."""
