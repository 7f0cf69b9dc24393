from __future__ import annotations

import pytest
from hypothesis import settings

from rsqa_pipeline.scenes.truth import Effects, Group, SceneTruth, sample_scene

settings.register_profile("no_clock", deadline=None, derandomize=True)
settings.load_profile("no_clock")


@pytest.fixture(params=range(5))
def any_scene(request: pytest.FixtureRequest) -> SceneTruth:
    return sample_scene(request.param)


@pytest.fixture
def harbour() -> SceneTruth:
    """Two red ships on the left, one white tank in the top right."""
    ships = Group("ship", "red", 2, "left", ((2, 4, 14, 9), (3, 40, 15, 46)), 36.0, (0.0, 2.0))
    tank = Group("tank", "white", 1, "top right", ((40, 10, 51, 21),), 33.0, (0.0,))
    return SceneTruth(0, "harbour", 3.0, "left", (ships, tank), Effects(0, 1, 0, 45, 0))
