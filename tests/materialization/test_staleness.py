"""What is stale, and why: data, code, settings or an input above."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsqa_pipeline.materialization.materialize import input_folders, materialize
from rsqa_pipeline.materialization.staleness import StaleAsset, stale_assets
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.run_logger import SilentLogger

SOURCES = ("benchmark_sets", "image_text_pairs", "text_preferences")


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The same, with its cheap assets made."""
    profile = Profile.model_validate(settings)
    for name in SOURCES:
        asset = assets_of(profile)[name]
        materialize(profile, asset, input_folders(profile, asset), SilentLogger())
    return settings


def stale(settings: dict[str, Any]) -> dict[str, StaleAsset]:
    profile = Profile.model_validate(settings)
    return {asset.name: asset for asset in stale_assets(profile, assets_of(profile))}


def test_what_was_made_is_current_and_the_rest_was_never_made(settings: dict[str, Any]) -> None:
    found = stale(settings)
    assert not set(SOURCES) & set(found)
    assert found["instruction_samples"].reasons == ["never made"]
    assert found["instruction_samples"].last_seconds is None
    assert found["base_models"].reasons == ["never made"]


def test_a_changed_setting_is_named_by_its_key_and_reaches_what_is_below(settings: dict[str, Any]) -> None:
    settings["source_pairs"]["preference_share"] = 0.5
    found = stale(settings)
    assert found["image_text_pairs"].reasons == ["settings changed: source_pairs.preference_share"]
    assert found["image_text_pairs"].last_seconds is not None
    assert found["base_models"].reasons == ["never made", "input image_text_pairs will be made again"]
    assert "benchmark_sets" not in found and "text_preferences" not in found


def test_a_changed_source_file_is_named(settings: dict[str, Any]) -> None:
    with Path("captions.csv").open("a") as file:
        file.write("\n")
    assert stale(settings)["image_text_pairs"].reasons == ["source changed: captions.csv"]


def test_changed_code_is_a_reason(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsqa_pipeline.materialization.materialize.code_version", lambda module: "another")
    assert stale(settings)["text_preferences"].reasons == ["code changed"]


def test_an_output_that_was_changed_on_disk_or_removed_is_named(settings: dict[str, Any]) -> None:
    profile = Profile.model_validate(settings)
    table = assets_of(profile)["text_preferences"].folder(profile) / "pairs.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    assert stale(settings)["text_preferences"].reasons == ["output on disk is not a recorded one"]
    table.unlink()
    for file in table.parent.rglob("*"):
        if file.is_file():
            file.unlink()
    for folder in sorted(table.parent.rglob("*"), reverse=True):
        folder.rmdir()
    table.parent.rmdir()
    assert stale(settings)["text_preferences"].reasons == ["output is missing"]
