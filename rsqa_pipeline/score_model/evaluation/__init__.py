"""How good the score model is: accuracy, calibration, probes, promotion."""
