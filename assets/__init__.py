"""The Dagster code location: assets, jobs, sensors and resources. The work itself is in `rsqa_pipeline`."""

from .definitions import defs

__all__ = ["defs"]
