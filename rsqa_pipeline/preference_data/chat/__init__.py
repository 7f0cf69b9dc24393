"""Models that are asked in chat form, on a server or on this machine, and the log that keeps their replies."""
