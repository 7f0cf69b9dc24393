"""Readers of external preference pairs, one module per format, and the export in TRL's format."""
