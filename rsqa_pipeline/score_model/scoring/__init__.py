"""The only scoring code: the scorer, its batches and image loading."""
