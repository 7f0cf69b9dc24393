"""Candidate texts, judge's marks, chosen/rejected pairs."""
