"""Checks of every table before it is used."""
