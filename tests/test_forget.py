"""A deletion request on outputs that were really made, without training: entered, made again, not brought back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rsqa_pipeline.audit.forgotten import check_forgotten
from rsqa_pipeline.dvc_files.stages import dvc_yaml
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.forgetting.enter import enter
from rsqa_pipeline.forgetting.receipt import Outcome, write_receipt
from rsqa_pipeline.forgetting.request import read_request
from rsqa_pipeline.forgotten import FORGOTTEN
from rsqa_pipeline.lineage.forward import forward
from rsqa_pipeline.materialization.materialize import Materialization, input_folders, materialize
from rsqa_pipeline.materialization.staleness import stale_assets
from rsqa_pipeline.models.embedding_cache import EmbeddingCache
from rsqa_pipeline.preference_data.build_pairs import Judged, Pairs
from rsqa_pipeline.preference_data.candidate import Candidate, Subject
from rsqa_pipeline.preference_data.judge import Judgement
from rsqa_pipeline.profile import Corruption, Profile
from rsqa_pipeline.scenes.marks import Marks
from rsqa_pipeline.source_pairs.image_text_pairs import run
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.pipeline.project import smoke_settings
from tests.source_pairs.generated import settings as source_settings
from tests.source_pairs.generated import write_karpathy

MADE = ("benchmark_sets", "image_text_pairs")


def make(profile: Profile, name: str) -> Materialization:
    asset = assets_of(profile)[name]
    inputs = {name: folder for name, folder in input_folders(profile, asset).items() if folder.is_dir()}
    return materialize(profile, asset, inputs, SilentLogger())


def rows(profile: Profile, name: str, table: str = "samples") -> list[dict[str, Any]]:
    path = assets_of(profile)[name].folder(profile) / f"{table}.parquet"
    found: list[dict[str, Any]] = pd.read_parquet(path).to_dict("records")
    return found


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """A profile on generated files whose sources are ingested, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    # ingest reads no suite of Great Expectations here, whose import alone takes seconds
    monkeypatch.setattr("rsqa_pipeline.stages.curation_assets.TABLE_CHECKS", ("rows_add_up", "few_quarantined"))
    write_karpathy(tmp_path)
    settings, corruption = smoke_settings(), Corruption(share=0.6, sources=["vague", "class_swap"])
    settings["preference_data"]["one_fault_pairs"] = None
    settings["source_pairs"] |= source_settings(Path(), corruption).source_pairs.model_dump(mode="json")
    path = tmp_path / "configs/profiles/smoke.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(settings))  # JSON is YAML
    (tmp_path / "params.yaml").write_text("profile: smoke\n")
    profile = Profile.model_validate(settings)
    (tmp_path / "dvc.yaml").write_text(dvc_yaml("smoke", profile))
    for name in MADE:
        make(profile, name)
    return profile


def held(profile: Profile) -> set[str]:
    return {finding.where for finding in check_forgotten(profile)}


def test_from_the_request_to_absence_and_no_way_back(profile: Profile, tmp_path: Path) -> None:
    image = rows(profile, "image_text_pairs")[0]["image_id"]
    item = rows(profile, "benchmark_sets", "items")[0]["image_id"]
    cache = EmbeddingCache(profile.score_cache("clip_scores") / "code/embeddings", "v" * 32)
    cache._file(image).parent.mkdir(parents=True)
    cache._file(image).write_bytes(b"")
    old = profile.data.rename(tmp_path / "pulled")
    shutil.copytree(old, profile.data)

    request = read_request(profile, [image, item])
    texts = {row["sample_id"] for row in rows(profile, "image_text_pairs") if row["image_id"] == image}
    assert {named.id for named in request.ids} >= {image, item, *texts}
    assert set(request.touched["samples"]["image_text_pairs"]) >= texts and request.touched["items"]
    assert not FORGOTTEN.exists()

    new = enter("smoke", profile, request, "request 17", "a.person")
    assert {line.id for line in new} == {named.id for named in request.ids}
    assert set(MADE) == held(profile) and not cache._file(image).exists()
    assert str(FORGOTTEN) in Path("dvc.yaml").read_text() and Path("dvc.yaml").read_text() == dvc_yaml("smoke", profile)
    stale = {asset.name: asset.reasons for asset in stale_assets(profile, MADE)}
    assert stale == {
        "benchmark_sets": ["forgotten items changed"],
        "image_text_pairs": ["forgotten items changed", "input benchmark_sets will be made again"],
    }
    for name in MADE:
        assert not make(profile, name).reused
    assert held(profile) == set() and stale_assets(profile, MADE) == []
    without = {name: make(profile, name) for name in MADE}
    assert all(made.reused for made in without.values())
    assert without["image_text_pairs"].manifest.metrics["quarantined/forgotten"] >= len(texts)

    shutil.rmtree(profile.data)  # as `dvc pull` of an earlier commit's data does
    old.rename(profile.data)
    assert held(profile) == set(MADE)
    again = {name: make(profile, name) for name in MADE}
    assert not any(made.reused for made in again.values()) and held(profile) == set()
    versions = [[made.manifest.data_version for made in found.values()] for found in (without, again)]
    assert versions[0] == versions[1]


def test_a_sample_takes_its_pairs_and_its_text_as_the_source_has_it(profile: Profile) -> None:
    truth = {row["sample_id"]: row for row in rows(profile, "image_text_pairs", "truth")}
    sample = next(row for row in rows(profile, "image_text_pairs") if truth[row["sample_id"]]["original_text"])
    text, image = sample["messages"][-1]["content"], sample["image_id"]
    pairs = Pairs("caption_preferences")
    for words in ((text, "a port"), ("a road", "a city")):
        judged = [Judged(Candidate(Subject(image, "a.png"), word, "x"), _mark(5 - n)) for n, word in enumerate(words)]
        pairs.add_ranked(judged, "caption", "me", "train")
    pairs.write(assets_of(profile)["caption_preferences"].folder(profile))
    request = read_request(profile, [sample["sample_id"]])
    assert request.touched["pairs"] == {"caption_preferences": [pairs.rows[0]["pair_id"]]}
    assert forward(profile, sample["sample_id"])["pairs"] == request.touched["pairs"]
    enter("smoke", profile, request, "request 17", "a.person")
    before = len(rows(profile, "image_text_pairs"))
    make(profile, "benchmark_sets"), make(profile, "image_text_pairs")
    left = rows(profile, "image_text_pairs")
    assert len(left) == before - 1 and image in {row["image_id"] for row in left}  # the image stays
    assert held(profile) == {"caption_preferences"}


def _mark(mark: float) -> Judgement:
    return Judgement(Marks(*[mark] * 5))


def test_the_receipt_names_ids_and_never_texts(profile: Profile) -> None:
    sample = rows(profile, "image_text_pairs")[0]
    request = read_request(profile, [sample["image_id"]])
    new = enter("smoke", profile, request, "request | 17", "a.person")
    decided = Outcome(request, "request | 17", "a.person", new, "until May", [], 1.0, check_forgotten(profile))
    path, page = write_receipt(profile, decided)
    facts = json.loads(path.read_text())
    assert facts["decision"] == "until May" and facts["remaining"] and facts["tombstones"]["new"] == len(new)
    assert facts["versions_before"]["image_text_pairs"].endswith(".dir")
    assert "request \\| 17" in page.read_text() and "Decision: until May" in page.read_text()
    make(profile, "benchmark_sets"), make(profile, "image_text_pairs")
    rebuilt = Outcome(request, "r", "a.person", [], None, list(MADE), 2.0, check_forgotten(profile))
    facts = json.loads(write_receipt(profile, rebuilt)[0].read_text())
    (changed,) = (row for row in facts["rebuilt"] if row["asset"] == "image_text_pairs")
    assert changed["before"] != changed["now"] and changed["seconds"] >= 0 and facts["remaining"] == []
    for text in [turn["content"] for turn in sample["messages"]] + [Path(sample["image"]).name]:
        assert all(text not in file.read_text() for file in (FORGOTTEN, *Path("receipts").iterdir()))
    FORGOTTEN.unlink()
    assert {finding.kind for finding in check_forgotten(profile)} == {"lost_tombstone"}


def test_targets_that_nothing_holds(profile: Profile, tmp_path: Path) -> None:
    """A file can be forgotten before it is read; an id that nothing has is refused; a second request adds nothing."""
    (tmp_path / "new.png").write_bytes(b"any bytes")
    request = read_request(profile, ["new.png"])
    assert request.counts == [] and [named.kind for named in request.ids] == ["image"]
    assert len(enter("smoke", profile, request, "r", "w")) == 1
    again = read_request(profile, [request.named[0].id])
    assert again == request and enter("smoke", profile, again, "r", "w") == []
    with pytest.raises(UsageError, match="neither an image file nor the id"):
        read_request(profile, ["f" * 64])
    with pytest.raises(UsageError, match="neither an image file nor the id"):
        read_request(profile, ["human"])


def test_the_function_reads_the_list_itself(profile: Profile, tmp_path: Path) -> None:
    """Also where it is called without a record."""
    request = read_request(profile, [rows(profile, "image_text_pairs")[0]["image_id"]])
    enter("smoke", profile, request, "r", "w")
    assert run({}, tmp_path, profile, SilentLogger())["quarantined/forgotten"] > 0
