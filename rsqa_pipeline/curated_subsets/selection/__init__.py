"""Which samples to keep, and why the others are dropped."""
