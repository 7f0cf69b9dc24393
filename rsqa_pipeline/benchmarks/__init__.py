"""What a model gets right, with intervals and chance levels."""
