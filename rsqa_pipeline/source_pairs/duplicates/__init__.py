"""Near-duplicates: find, group, keep one of each group, and keep benchmark items out of training."""
