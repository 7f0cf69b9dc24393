"""Deletion requests: what they touch, what is done about them, and the receipt."""
