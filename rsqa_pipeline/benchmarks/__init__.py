"""Benchmarks: accuracy of every model, with intervals and chance levels."""
