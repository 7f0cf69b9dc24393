"""Scores of a corpus and the subsets chosen by them."""
