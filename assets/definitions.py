"""What Dagster loads, for the profile in ``RSQA_PROFILE`` or, without it, in ``params.yaml``."""

from __future__ import annotations

import os

from rsqa_pipeline.profile import default_profile

from .code_location import build

defs = build(os.environ.get("RSQA_PROFILE") or default_profile())
