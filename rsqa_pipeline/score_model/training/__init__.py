"""Training of the score model, phase by phase, in one process or several."""
