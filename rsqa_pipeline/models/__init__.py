"""Load a VLM or CLIP by folder or hub id, talk to it, score with it."""
