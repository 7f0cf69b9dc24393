"""The only scoring code: the scorer and what feeds it."""
