"""Databases and servers that the project uses but does not own."""
