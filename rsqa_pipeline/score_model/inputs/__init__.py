"""Texts and images as the tensors that a backbone takes."""
