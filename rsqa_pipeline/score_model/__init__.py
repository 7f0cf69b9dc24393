"""The score model: a scalar for how good a text is for an image."""
