"""Whether files, records, ``dvc.lock``, Dagster and MLflow agree about a profile."""
