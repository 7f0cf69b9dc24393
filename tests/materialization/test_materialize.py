"""An output is made once for one recipe, whole or not at all, and only if its checks pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assets.metadata import output_metadata
from rsqa_pipeline.lineage import bundle
from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.materialization.materialize import (
    CheckFailed,
    current_manifest,
    input_folders,
    materialize,
    metrics_file,
    restricted_profile,
)
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.run_logger import SilentLogger
from rsqa_pipeline.versions import folder_version

TEXT, CAPTIONS = "text_preferences", "image_text_pairs"


def make(settings: dict[str, Any], name: str = TEXT, **more: Any) -> Any:
    profile = Profile.model_validate(settings)
    asset = assets_of(profile)[name]
    inputs = {name: folder for name, folder in input_folders(profile, asset).items() if folder.is_dir()}
    return materialize(profile, asset, inputs, SilentLogger(), **more)


def test_the_same_recipe_is_computed_once(settings: dict[str, Any]) -> None:
    first, second = make(settings), make(settings)
    assert not first.reused and second.reused
    assert first.manifest == second.manifest
    assert first.manifest.data_version == folder_version(first.folder)
    assert make(settings, force=True).manifest.data_version == first.manifest.data_version


def test_other_settings_or_a_changed_output_are_made_again(settings: dict[str, Any]) -> None:
    first = make(settings)
    settings["preference_data"]["text_pairs"] = 30
    assert not make(settings).reused
    table = first.folder / "pairs.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    assert not make(settings).reused


def test_a_setting_of_another_section_changes_nothing(settings: dict[str, Any]) -> None:
    make(settings)
    settings["report"]["gallery_size"] = 3
    assert make(settings).reused


def test_a_changed_source_file_is_noticed(settings: dict[str, Any]) -> None:
    before = make(settings, CAPTIONS).manifest
    path = Path("captions.csv")
    path.write_text(path.read_text().replace("houses", "ships", 1))
    after = make(settings, CAPTIONS).manifest
    assert before.recipe.sources["captions.csv"] != after.recipe.sources["captions.csv"]


def test_a_failed_check_keeps_the_old_output(settings: dict[str, Any]) -> None:
    good = make(settings, CAPTIONS)
    with Path("captions.csv").open("a") as file:
        file.writelines(f"not-a-scene,expert,caption {n}\n" for n in range(10))
    with pytest.raises(CheckFailed, match=r"few_quarantined.*max_quarantined_share") as failure:
        make(settings, CAPTIONS)
    assert [check.name for check in failure.value.checks if not check.passed] == ["few_quarantined"]
    assert folder_version(good.folder) == good.manifest.data_version
    assert (good.folder.parent / ".image_text_pairs.rejected" / "quarantine.parquet").is_file()
    profile = Profile.model_validate(settings)
    assert current_manifest(profile, assets_of(profile)[CAPTIONS], manifests(profile)) is None


def test_repeats_count_against_the_limit_unless_they_are_expected(settings: dict[str, Any]) -> None:
    path = Path("captions.csv")
    header, *rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *rows, *rows[:10]]))
    settings["source_pairs"]["instructions"]["repeats_expected"] = True  # of another source
    with pytest.raises(CheckFailed, match=r"few_quarantined.*10 rows repeat image and text.*repeats_expected"):
        make(settings, CAPTIONS)
    settings["source_pairs"]["captions"]["repeats_expected"] = True
    made = make(settings, CAPTIONS)
    counts = {name: made.manifest.metrics[name] for name in ("input_rows", "kept_rows", "quarantined/duplicate_id")}
    assert counts == {"input_rows": len(rows) + 10, "kept_rows": len(rows), "quarantined/duplicate_id": 10}


def test_a_key_that_an_asset_does_not_read_leaves_it_alone(settings: dict[str, Any]) -> None:
    """Staleness follows the keys that an asset reads, not the section that they are in."""
    make(settings, "benchmark_sets")
    before = make(settings, CAPTIONS)
    settings["source_pairs"]["benchmark_items"] = 9
    settings["source_pairs"]["instruction_samples"] = 250
    settings["compute"]["batch_tokens"] = 8192
    assert make(settings, CAPTIONS).reused
    settings["source_pairs"]["preference_share"] = 0.5
    again = make(settings, CAPTIONS)
    assert not again.reused and again.manifest.data_version != before.manifest.data_version


@pytest.mark.parametrize("name", ["image_text_pairs", "instruction_samples"])
def test_models_that_find_duplicates_get_their_device(settings: dict[str, Any], name: str) -> None:
    settings["source_pairs"]["duplicates"] = {}
    profile = Profile.model_validate(settings)
    assert restricted_profile(profile, assets_of(profile)[name]).compute == profile.compute


def test_a_function_gets_its_keys_only(settings: dict[str, Any]) -> None:
    profile = Profile.model_validate(settings)
    captions = restricted_profile(profile, assets_of(profile)[CAPTIONS])
    assert captions.source_pairs.preference_share == settings["source_pairs"]["preference_share"]
    for missing in ("benchmarks", "compute"):
        with pytest.raises(AttributeError, match=missing):
            getattr(captions, missing)
    for missing in ("instruction_samples", "benchmark_items"):
        with pytest.raises(AttributeError, match=missing):
            getattr(captions.source_pairs, missing)
    with pytest.raises(AttributeError):
        _ = captions.rl_policy


def test_metrics_stand_beside_the_data(settings: dict[str, Any]) -> None:
    made, profile = make(settings), Profile.model_validate(settings)
    text = metrics_file(profile, assets_of(profile)[TEXT]).read_text()
    assert '"kept_rows"' in text and made.manifest.metrics["kept_rows"] > 0


def test_two_runs_leave_equal_metrics_and_an_equal_lineage_bundle(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What git tracks (metrics, versions in dvc.lock) does not change if the figures do not: no times, no run ids."""
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        made = make(settings, run={"mlflow_run": name})
        profile = Profile.model_validate(settings)
        assert bundle.run({TEXT: made.folder}, Path("bundle"), profile, SilentLogger()) == {"assets": 1.0}
        metrics = metrics_file(profile, assets_of(profile)[TEXT]).read_bytes()
        found.append((made.manifest.data_version, folder_version(Path("bundle")), metrics))
        assert made.manifest.run["mlflow_run"] == name and "seconds" in made.manifest.run
        shown = output_metadata(assets_of(profile)[TEXT], made)
        assert shown["cpu_seconds"] == float(made.manifest.run["cpu_seconds"]) and shown["seconds"] > 0
    assert found[0] == found[1]
