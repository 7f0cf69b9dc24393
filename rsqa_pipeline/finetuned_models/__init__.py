"""CLIP and VLM fine-tuned on a subset."""
