"""Rewards and GRPO training of the RL policy."""
