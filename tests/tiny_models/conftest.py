from __future__ import annotations

import pytest

from rsqa_pipeline.profile import Compute
from rsqa_pipeline.tiny_models.scene_material import SceneMaterial


@pytest.fixture(scope="session")
def cpu() -> Compute:
    return Compute(device="cpu")


@pytest.fixture(scope="session")
def scenes() -> SceneMaterial:
    return SceneMaterial(40, seed=3)
