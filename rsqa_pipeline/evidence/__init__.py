"""One folder of documents about a profile's models and data, for auditors."""
