"""Chat models, on a server or on this machine, and the log of their replies."""
