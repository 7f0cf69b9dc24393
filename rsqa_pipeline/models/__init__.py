"""Load a VLM or CLIP from a folder or hub id, generate text and compute scores with it."""
