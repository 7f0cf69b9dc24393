"""Scores of a corpus or file: shards, workers, engines, resume."""
