"""Readers of published evaluation files, one module per data set. Only `benchmark_sets` uses them."""
