"""Candidate captions of one image by several captioners of different skill (paper, ICPD).

A captioner is named in the profile: a captioner of the scenes, ``human`` (one of the image's own clean captions), a kind
of corruption put into another of its own captions, or ``vlm``: the base VLM sampled at temperature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images import ImageFault, open_image
from rsqa_pipeline.models.conversation import CAPTION_PROMPT
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.preference_data.candidate import NO_FAULT, Candidate, Subject
from rsqa_pipeline.profile import Sampling
from rsqa_pipeline.records import Message, sha256
from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.truth import sample_scene

GENERATION_BATCH = 64
