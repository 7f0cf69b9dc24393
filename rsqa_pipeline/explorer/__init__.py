"""An offline page to look through a scored corpus, see what a rule keeps and why, and mark samples by hand."""
