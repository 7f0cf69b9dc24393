"""Rewards and GRPO."""
