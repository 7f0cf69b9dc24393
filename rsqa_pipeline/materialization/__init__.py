"""How one output is made, checked, put in place and found stale."""
