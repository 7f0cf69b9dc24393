"""Small real CLIP and Qwen2-VL checkpoints, and the recipe that makes them."""
