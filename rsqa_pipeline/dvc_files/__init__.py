"""What DVC reads of a profile: `dvc.yaml` and `dvc.lock`."""
