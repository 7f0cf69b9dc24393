"""The explorer on the outputs of a profile, whose decisions the real selection makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.curated_subsets.selection.subset import run as select
from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.explorer.from_profile import read_profile
from rsqa_pipeline.profile import Profile, load_profile
from rsqa_pipeline.records import (
    COMPONENT,
    IMAGE_TEXT_SAMPLE,
    QUARANTINE,
    SCORED_SAMPLE,
    TRUTH,
    write_table,
)
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.run_logger import SilentLogger

SUBSET = "score_model_p30s60"


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> Profile:
    """Outputs of the demo's first stages: ten captions, ten answers, two images of a near-duplicate group."""
    settings = load_profile("demo")
    monkeypatch.chdir(tmp_path)
    folder = {name: asset.folder(settings) for name, asset in assets_of(settings).items()}
    Image.new("RGB", (8, 8), "green").save(tmp_path / "a.png")
    ids = []
    for asset in ("image_text_pairs", "instruction_samples"):
        rows = [sample(asset, number, tmp_path) for number in range(10)]
        ids += [row["sample_id"] for row in rows]
        rows.append({**sample(asset, 10, tmp_path), "split": "preference"})
        write_table(folder[asset] / "samples.parquet", IMAGE_TEXT_SAMPLE, rows)
        truth = [
            {"sample_id": row["sample_id"], "corruption": "class_swap" if n == 2 else None}
            for n, row in enumerate(rows)
        ]
        write_table(folder[asset] / "truth.parquet", TRUTH, truth)
        twin = "f" * 64
        lost = {"asset": asset, "sample_id": f"{asset}/x", "reason": "near_duplicate"}
        lost["detail"] = f"x: kept is image {image_id(1)}; image {twin} is most like {image_id(1)} (0.981)"
        write_table(folder[asset] / "quarantine.parquet", QUARANTINE, [lost])
    components = [{"image_id": image_id(n), "component": image_id(n), "kept": True} for n in range(10)]
    components.append({"image_id": twin, "component": image_id(1), "kept": False})
    write_table(folder["image_text_pairs"] / "components.parquet", COMPONENT, components)
    for asset in ("pair_scores", "clip_scores"):
        scores = [{"sample_id": key, "score": float(n), "model_version": "v"} for n, key in enumerate(ids) if n != 5]
        write_table(folder[asset] / "scores.parquet", SCORED_SAMPLE, scores)
        lost = {"asset": asset, "sample_id": ids[5], "reason": "too_long", "detail": "9,000 tokens"}
        write_table(folder[asset] / "quarantine.parquet", QUARANTINE, [lost])
    name = f"subset_{SUBSET}"
    (folder[name] / "plots").mkdir(parents=True)
    select(folder, folder[name], settings, SilentLogger(), subset=SUBSET)
    return settings


def image_id(number: int) -> str:
    return f"{number:064x}"


def sample(asset: str, number: int, folder: Path) -> dict[str, Any]:
    turns = [{"role": "user", "content": "what?"}] if asset == "instruction_samples" else []
    return {
        "sample_id": f"{asset}-{number}",
        "image_id": image_id(number),
        "image": str(folder / "a.png"),
        "messages": [*turns, {"role": "assistant", "content": f"text {number}"}],
        "task": "count" if turns else "caption",
        "source": "expert",
        "split": "corpus",
        "scene_class": "beach",
        "true_quality": 4.0,
    }


def test_decisions_reasons_faults_and_groups(profile: Profile) -> None:
    exploration = read_profile(profile, None, 100)
    rows = {row.key: row for row in exploration.samples}
    assert len(rows) == exploration.total == 22
    captions = [row for row in rows.values() if row.kind == "caption"]
    assert [row.key for row in captions if row.state == "kept"] == [f"image_text_pairs-{n}" for n in (7, 8, 9)]
    best, swapped, unscored = (rows[f"image_text_pairs-{n}"] for n in (9, 2, 5))
    assert best.rule == "score_model: best 30% of captions" and best.score == best.clip_score == 9.0
    assert (swapped.fault, swapped.reason, swapped.rank) == ("class_swap", "outside_top", 7)
    assert (unscored.state, unscored.reason, unscored.fault) == ("dropped", "no_score", "too_long")
    assert unscored.score is None and unscored.detail == "9,000 tokens"
    removed = rows["image_text_pairs/x"]
    assert (removed.state, removed.reason) == ("quarantined", "near_duplicate")
    grouped = {row.key for row in rows.values() if row.group is not None}
    assert grouped == {"image_text_pairs-1", "instruction_samples-1", "image_text_pairs/x", "instruction_samples/x"}
    assert "best 30% of captions; score_model: best 60% of instructions" in exploration.rule


def test_without_near_duplicate_search_no_sample_has_a_group(profile: Profile) -> None:
    (profile.data / "source_pairs/image_text_pairs/components.parquet").unlink()
    groups = {row.group for row in read_profile(profile, SUBSET, 100).samples if row.state != "quarantined"}
    assert groups == {None}


def test_unknown_subset_and_missing_outputs_are_refused(profile: Profile) -> None:
    with pytest.raises(UsageError, match="score_model_p30s60"):
        read_profile(profile, "nosuch", 100)
    with pytest.raises(UsageError, match="rsqa run subset_all"):
        read_profile(profile, "all", 100)


def test_decisions_on_another_corpus_are_refused(profile: Profile) -> None:
    table = profile.data / "source_pairs/image_text_pairs/samples.parquet"
    write_table(table, IMAGE_TEXT_SAMPLE, [sample("image_text_pairs", 99, table.parent)])
    with pytest.raises(DataError, match="another corpus"):
        read_profile(profile, SUBSET, 100)


def test_the_command_writes_a_page(profile: Profile, project_root: Path) -> None:
    name = str(project_root / "configs/profiles/demo.yaml")
    Path("data/demo/corpus").symlink_to(project_root / "data/demo/corpus")
    done = CliRunner().invoke(app, ["explore", "--profile", name, "--out", "page"])
    assert done.exit_code == 0, done.output
    assert "22 of 22 samples: page/index.html" in done.output
