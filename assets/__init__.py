"""Dagster's side: assets, jobs, sensors and resources. The work itself is in `rsqa_pipeline`."""
