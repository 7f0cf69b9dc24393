"""Candidate texts, the judge's marks, and chosen/rejected pairs."""
