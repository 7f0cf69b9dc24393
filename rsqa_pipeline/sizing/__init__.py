"""How large a run is, from formulas: samples, tokens, FLOPs, memory, time and disk of each asset."""
