"""Whether files, records, ``dvc.lock``, Dagster and MLflow tell one story about a profile."""
