"""Read, validate, hash and split image-text data."""
