"""Fine-tunes a CLIP and a VLM on a subset."""
