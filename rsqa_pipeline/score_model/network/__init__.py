"""The score model itself: backbone, head, adapters, checkpoints."""
