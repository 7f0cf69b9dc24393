"""The reward server: a score model behind HTTP, in the dialects of several RL frameworks, and its client."""
