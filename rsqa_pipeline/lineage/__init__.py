"""What made an output, and whether it is unchanged on disk."""
