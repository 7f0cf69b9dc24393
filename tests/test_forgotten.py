"""What is on the list of forgotten items comes out of no reader, is counted, and is found where it still is."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from rsqa_pipeline.audit.forgotten import check_forgotten
from rsqa_pipeline.cli.main import app
from rsqa_pipeline.curated_subsets.export import export
from rsqa_pipeline.data_quality.checks import run_checks
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.forgotten import FORGOTTEN, Forgotten, Tombstone, add_tombstones, read_forgotten, read_tombstones
from rsqa_pipeline.materialization.materialize import recipe_of
from rsqa_pipeline.materialization.staleness import differences
from rsqa_pipeline.models.embedding_cache import EmbeddingCache
from rsqa_pipeline.preference_data.build_pairs import Judged, Pairs
from rsqa_pipeline.preference_data.candidate import Candidate, Subject
from rsqa_pipeline.preference_data.importers.add_imports import ImportedImages
from rsqa_pipeline.preference_data.judge import Judgement
from rsqa_pipeline.profile import Profile, SourceFile
from rsqa_pipeline.records import read_table, sample_id
from rsqa_pipeline.scenes.corpus import write_demo_corpus
from rsqa_pipeline.scenes.marks import Marks
from rsqa_pipeline.source_pairs import benchmark_sets, image_text_pairs, instruction_samples
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.pipeline.project import smoke_settings
from tests.source_pairs.generated import settings as source_settings
from tests.source_pairs.generated import write_karpathy


@pytest.fixture(autouse=True)
def _own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is relative to the current folder."""
    monkeypatch.chdir(tmp_path)


def settings(folder: Path, **changed: Any) -> Profile:
    """A whole profile on generated files."""
    pairs = source_settings(folder, **changed).source_pairs
    return Profile.model_validate(smoke_settings()).model_copy(update={"source_pairs": pairs})


def forget(*ids: str) -> None:
    add_tombstones(Tombstone("image", one, "request 7", "2026-03-02", "a.person") for one in ids)


def ingest(profile: Profile, out: str) -> tuple[dict[str, float], list[dict[str, Any]]]:
    Path(out).mkdir()
    metrics = image_text_pairs.run({}, Path(out), profile, SilentLogger())
    return metrics, read_table(Path(out) / "samples.parquet")


@pytest.mark.parametrize("form", ["karpathy", "llava", "jsonl", "webdataset", "hf_parquet"])
def test_every_reader_of_files_leaves_out_the_image_and_the_sample(form: Any, tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    profile = settings(tmp_path)
    source = profile.source_pairs.captions
    if form != "karpathy":
        written = "hf" if form == "hf_parquet" else form
        export(source, [entry.key for entry in read_source(source)], tmp_path / "other", written)
        images = str(tmp_path / "images") if form in ("llava", "jsonl") else None
        profile = settings(tmp_path, captions=SourceFile(format=form, path=str(tmp_path / "other"), images=images))
    before, rows = ingest(profile, "before")
    image, other = rows[0]["image_id"], next(row for row in rows if row["image_id"] != rows[0]["image_id"])
    forget(image, other["sample_id"])
    after, left = ingest(profile, "after")
    gone = [row for row in rows if row["image_id"] == image or row["sample_id"] == other["sample_id"]]
    kept = [row["sample_id"] for row in rows if row not in gone]
    assert [row["sample_id"] for row in left] == kept
    assert after["quarantined/forgotten"] == len(gone) and after["input_rows"] == before["input_rows"]
    asset = replace(assets_of(profile)["image_text_pairs"], checks=("rows_add_up", "few_quarantined"))
    assert all(check.passed for check in run_checks(asset, Path("after"), after, profile))


def test_benchmarks_of_files_leave_out_the_image(tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    profile = settings(tmp_path)
    benchmark_sets.run({}, tmp_path / "before", profile, SilentLogger())
    image = read_table(tmp_path / "before/items.parquet")[0]["image_id"]
    forget(image)
    metrics = benchmark_sets.run({}, tmp_path / "after", profile, SilentLogger())
    assert metrics["quarantined/forgotten"] > 0
    assert image not in {item["image_id"] for item in read_table(tmp_path / "after/items.parquet")}


def hashes_in(tar: Path) -> set[str]:
    with tarfile.open(tar) as archive:
        contents = [archive.extractfile(member) for member in archive]
        return {ImportedImages(Path("unused.tar")).add(file.read())[0] for file in contents if file is not None}


def test_scenes_are_not_even_packed(tmp_path: Path) -> None:
    write_demo_corpus(tmp_path / "captions.csv", range(40), seed=7)
    scenes = SourceFile(format="scenes")
    captions = SourceFile(format="scenes", path="captions.csv")
    profile = settings(
        tmp_path, captions=captions, instructions=scenes, benchmarks=scenes, instruction_samples=30, benchmark_items=3
    )
    stages = {"captions": image_text_pairs, "instructions": instruction_samples, "items": benchmark_sets}

    def made(run: str) -> dict[str, dict[str, float]]:
        found = {}
        for name, stage in stages.items():
            (tmp_path / run / name).mkdir(parents=True)
            found[name] = stage.run({}, tmp_path / run / name, profile, SilentLogger())
        return found

    before = made("before")
    tables = {"captions": "samples", "instructions": "samples", "items": "items"}
    images = {n: read_table(tmp_path / f"before/{n}/{table}.parquet")[0]["image_id"] for n, table in tables.items()}
    forget(*images.values())
    after = made("after")
    for name, table in tables.items():
        assert images[name] in hashes_in(tmp_path / f"before/{name}/images.tar")
        assert images[name] not in hashes_in(tmp_path / f"after/{name}/images.tar")
        assert images[name] not in {row["image_id"] for row in read_table(tmp_path / f"after/{name}/{table}.parquet")}
        assert after[name]["quarantined/forgotten"] > 0
    assert after["items"]["kept_rows"] == before["items"]["kept_rows"]  # the next scene takes the place
    for name in ("captions", "instructions"):
        assert after[name]["input_rows"] == before[name]["input_rows"]


def test_pairs_refuse_a_forgotten_text_that_is_written_again() -> None:
    subject = Subject("image", "/images/a.png")
    identity = sample_id("image", [{"role": "assistant", "content": "a port"}])
    texts = {"a port": 4.0, "a city": 3.0, "a road": 2.0}
    judged = [
        Judged(Candidate(subject, text, "someone"), Judgement(Marks(*[mark] * 5))) for text, mark in texts.items()
    ]
    pairs = Pairs("test", Forgotten(frozenset({identity})))
    pairs.add_ranked(judged, "caption", "me", "train")
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs.rows] == [("a city", "a road")]
    assert [row["reason"] for row in pairs.quarantine.rows] == ["forgotten"]
    assert "a port" not in {entry.candidate.text for entry in pairs.judged}
    again = Pairs("test", Forgotten(frozenset({pairs.rows[0]["pair_id"]})))
    again.add({key: value for key, value in pairs.rows[0].items() if key != "pair_id"})
    assert not again.rows and again.quarantine.rows[0]["reason"] == "forgotten"


def test_images_of_imported_pairs_are_not_packed(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    image_id = ImportedImages(tmp_path / "unused.tar").add(buffer.getvalue())[0]
    refusing = ImportedImages(tmp_path / "refused.tar", Forgotten(frozenset({image_id})))
    with pytest.raises(Exception, match="forgotten"):
        refusing.add(buffer.getvalue())
    assert not (tmp_path / "refused.tar").exists()


def test_an_absent_or_empty_list_changes_no_recipe(tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    profile = settings(tmp_path)
    readers = ("benchmark_sets", "image_text_pairs", "instruction_samples", "text_preferences", "caption_preferences")
    before = {name: assets_of(profile)[name] for name in readers}
    FORGOTTEN.write_text("")
    assert {name: assets_of(profile)[name] for name in readers} == before
    assert read_forgotten() == Forgotten()
    without = recipe_of(profile, before["image_text_pairs"], {})
    forget("1" * 64)
    for name, asset in assets_of(profile).items():
        assert (str(FORGOTTEN) in asset.sources) == (name in (*readers, "instruction_preferences")), name
    now = recipe_of(profile, assets_of(profile)["image_text_pairs"], {})
    assert differences(without, now) == ["forgotten items changed"]


@pytest.mark.parametrize("line", ["{", "[]", '{"kind": "image"}', '{"id": ""}', "null", "[" * 5000, "\xff"])
def test_a_damaged_list_stops_every_reader(tmp_path: Path, line: str) -> None:
    write_karpathy(tmp_path)
    forget("1" * 64)
    with FORGOTTEN.open("a", encoding="latin-1") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"forgotten.jsonl, line 2 .*git checkout"):
        ingest(settings(tmp_path), "out")


def test_the_list_grows_once_per_id_and_holds_hashes_alone() -> None:
    forget("1" * 64, "2" * 64)
    forget("2" * 64, "3" * 64)
    assert [tombstone.id[0] for tombstone in read_tombstones()] == ["1", "2", "3"]
    assert json.loads(FORGOTTEN.read_text().splitlines()[0]) == {
        "kind": "image", "id": "1" * 64, "reason": "request 7", "date": "2026-03-02", "who": "a.person",
    }  # fmt: skip


def test_the_search_names_rows_files_archives_pages_and_kept_vectors(tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    profile = settings(tmp_path)
    folder = assets_of(profile)["image_text_pairs"].folder(profile)
    folder.mkdir(parents=True)
    image_text_pairs.run({}, folder, profile, SilentLogger())
    row = read_table(folder / "samples.parquet")[0]
    image, identity = row["image_id"], row["sample_id"]
    assert check_forgotten(profile) == []
    forget(image, identity)
    (folder / "page.html").write_text(f"<p>{identity}</p>")
    shutil.copy(row["image"], folder / "copy.png")
    with tarfile.open(folder / "images.tar", "w") as archive:
        archive.add(row["image"], "a.png")
    cache = EmbeddingCache(profile.score_cache("clip_scores") / "code/embeddings", "v" * 32)
    cache._file(image).parent.mkdir(parents=True)
    cache._file(image).write_bytes(b"")
    (folder / "torn.parquet").write_bytes(b"PAR1")
    found = {Path(finding.detail.split()[0]).name: finding for finding in check_forgotten(profile)}
    names = {"samples.parquet", "truth.parquet", "page.html", "copy.png", "images.tar", "torn.parquet"}
    assert set(found) == {*names, f"{image[3:]}.f32"}
    assert {finding.kind for finding in found.values()} == {"forgotten_item"}
    assert found["samples.parquet"].where == "image_text_pairs"
    assert found[f"{image[3:]}.f32"].where == "kept scores of clip_scores"
    shutil.rmtree(folder)
    folder.mkdir()
    image_text_pairs.run({}, folder, profile, SilentLogger())
    assert [finding.where for finding in check_forgotten(profile)] == ["kept scores of clip_scores"]


def test_the_search_knows_a_text_by_its_image(tmp_path: Path) -> None:
    """In pairs, in texts of models, and as the original of a text that was corrupted on purpose."""
    write_karpathy(tmp_path)
    profile = settings(tmp_path)
    folder = assets_of(profile)["caption_preferences"].folder(profile)
    pairs = Pairs("caption_preferences")
    subject = Subject("image", str(tmp_path / "a.png"))
    texts = {"a port": 4.0, "a city": 3.0}
    judged = [Judged(Candidate(subject, text, "x"), Judgement(Marks(*[mark] * 5))) for text, mark in texts.items()]
    pairs.add_ranked(judged, "caption", "me", "train")
    pairs.write(folder)
    forget(sample_id("image", [{"role": "assistant", "content": "a city"}]))
    found = {Path(finding.detail.split()[0]).name for finding in check_forgotten(profile)}
    assert found == {"pairs.parquet", "judgements.parquet"}
    refusing = Pairs("caption_preferences", read_forgotten())
    refusing.add_ranked(judged, "caption", "me", "train")
    refusing.write(folder)
    assert pq.read_table(folder / "quarantine.parquet").num_rows == 1 and check_forgotten(profile) == []


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["x.png"], "--reason is needed"),
        (["x.png", "--reason", "r"], "either --rebuild or --decision"),
        (["x.png", "--reason", "r", "--rebuild", "--decision", "later"], "either --rebuild or --decision"),
        (["x.png", "--dry-run"], "neither an image file nor the id"),
    ],
)
def test_a_request_that_cannot_be_entered_writes_nothing(
    words: list[str], needed: str, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("configs", "params.yaml"):
        Path(name).symlink_to(project_root / name)
    Path("data/demo").mkdir(parents=True)
    Path("data/demo/corpus").symlink_to(project_root / "data/demo/corpus")
    done = CliRunner().invoke(app, ["forget", *words])
    assert done.exit_code and needed in str(done.exception), done.output
    assert not FORGOTTEN.exists() and not Path("receipts").exists()
