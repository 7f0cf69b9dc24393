"""Changed copies of the demo profile as files, loaded and refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rsqa_pipeline.errors import ProfileError
from rsqa_pipeline.profile import PROFILE_FOLDER, Profile, load_profile

DEMO: dict[str, Any] = yaml.safe_load((Path(__file__).parent.parent / PROFILE_FOLDER / "demo.yaml").read_text())


def demo_settings(folder: Path) -> dict[str, Any]:
    """The demo's settings, to be changed, on an empty caption file in ``folder``."""
    changed = copy.deepcopy(DEMO)
    (folder / "captions.csv").write_text("scene,source,caption\n")
    changed["source_pairs"]["captions"]["path"] = str(folder / "captions.csv")
    return changed


def load(settings: Any, folder: Path) -> Profile:
    """The profile of these settings, or of this text."""
    path = folder / "profile.yaml"
    path.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
    return load_profile(str(path))


def faults(settings: Any, folder: Path) -> list[str]:
    """The faults for which a profile is refused, all in one message."""
    with pytest.raises(ProfileError) as caught:
        load(settings, folder)
    assert caught.value.exit_code == 2
    for fault in caught.value.faults:
        assert fault in str(caught.value)
    return caught.value.faults
