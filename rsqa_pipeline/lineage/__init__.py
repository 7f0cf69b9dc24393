"""What made an output, and whether it still stands so."""
