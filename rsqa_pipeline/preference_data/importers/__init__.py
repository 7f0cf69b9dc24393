"""Readers of preference pairs made elsewhere, one module a format, and the way out in TRL's format."""
