"""The table of stages and assets: `table` is its front page."""

from rsqa_pipeline.stages.table import STAGES, assets_of

__all__ = ["STAGES", "assets_of"]
