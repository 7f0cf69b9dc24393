"""An output is made once for one recipe, whole or not at all, and only if its checks pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsqa_pipeline.materialize import CheckFailed, manifests, materialize, metrics_file, sees, standing
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import ASSETS
from rsqa_pipeline.tracking.run_logger import SilentLogger
from rsqa_pipeline.versions import folder_version
from tests.pipeline.project import smoke_settings

TEXT, CAPTIONS = ASSETS["text_preferences"], ASSETS["image_text_pairs"]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> dict[str, Any]:
    """Smoke settings, with an empty folder as the current one and 40 captions in it."""
    settings = smoke_settings()
    rows = (project_root / settings["source_pairs"]["captions"]["path"]).read_text().splitlines(keepends=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.csv").write_text("".join(rows[:41]))
    settings["source_pairs"]["captions"]["path"] = "captions.csv"
    return settings


def make(settings: dict[str, Any], asset: Any = TEXT, **more: Any) -> Any:
    return materialize(Profile.model_validate(settings), asset, {}, SilentLogger(), **more)


def test_the_same_recipe_is_computed_once(settings: dict[str, Any]) -> None:
    first, second = make(settings), make(settings)
    assert not first.reused and second.reused
    assert first.manifest == second.manifest
    assert first.manifest.data_version == folder_version(first.folder)
    assert make(settings, force=True).manifest.data_version == first.manifest.data_version


def test_other_settings_or_a_changed_output_are_made_anew(settings: dict[str, Any]) -> None:
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
    assert standing(Profile.model_validate(settings), CAPTIONS, manifests(Profile.model_validate(settings))) is None


def test_a_function_sees_its_sections_only(settings: dict[str, Any]) -> None:
    seen = sees(Profile.model_validate(settings), TEXT)
    assert seen.preference_data.text_pairs == settings["preference_data"]["text_pairs"]
    with pytest.raises(AttributeError, match="benchmarks"):
        _ = seen.benchmarks


def test_metrics_stand_beside_the_data(settings: dict[str, Any]) -> None:
    made = make(settings)
    text = metrics_file(Profile.model_validate(settings), TEXT).read_text()
    assert '"kept_rows"' in text and made.manifest.metrics["kept_rows"] > 0
