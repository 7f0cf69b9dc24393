"""The records in the formats of other tools, against plain loops over the records."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prov.model import ProvDerivation, ProvDocument, ProvEntity, ProvGeneration, ProvUsage
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.lineage.export.columns import column_lineage
from rsqa_pipeline.lineage.export.openlineage import write_openlineage
from rsqa_pipeline.lineage.export.sqlite import write_sqlite
from rsqa_pipeline.lineage.export.w3c_prov import prov_document, write_prov
from rsqa_pipeline.lineage.links import record_hash
from rsqa_pipeline.profile import Profile, load_profile

Records = dict[str, list[dict[str, Any]]]
RUN = "109706f1-fcb1-4e25-b111-d9200d50141f"


def record(asset: str, version: str, inputs: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    recipe = {"code_version": "c1", "settings": more.pop("settings", {"seed": 7}), "inputs": inputs or {}}
    recipe["sources"] = more.pop("sources", {})
    run = {"started": "2026-01-02T03:04:05+00:00", "seconds": "1.5", "dagster_run": RUN, "git_commit": "abc"}
    facts = {"metrics": {"rows": 3.0}, "checks": [], "weights": None, "run": more.pop("run", run)}
    return {"asset": asset, "data_version": version, "recipe": recipe, **facts}


@pytest.fixture
def records() -> Records:
    pairs = record("image_text_pairs", "p.dir", sources={"a b/captions.csv": "s1"})
    rule = {"curated_subsets.subsets.best": {"selector": "score_model", "caption_fraction": 0.3}}
    inputs = {"image_text_pairs": "p.dir", "pair_scores": "q.dir", "clip_scores": "r.dir"}
    late = {"started": "2026-01-03T00:00:00+00:00", "seconds": "2"}
    return {
        "image_text_pairs": [pairs],
        "pair_scores": [record("pair_scores", "q.dir", {"image_text_pairs": "p.dir"})],
        "subset_best": [
            record("subset_best", "b.dir", inputs, settings=rule),
            record("subset_best", "b.dir", inputs, settings=rule, run=late),
        ],
        "vlm_best": [record("vlm_best", "v.dir", {"subset_best": "b.dir"}, run={})],
    }


@pytest.fixture
def profile() -> Profile:
    return load_profile("demo")


def events(profile: Profile, records: Records, out: Path) -> list[dict[str, Any]]:
    write_openlineage(profile, records, out)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_every_timed_record_has_two_events_with_all_its_inputs(
    profile: Profile, records: Records, tmp_path: Path
) -> None:
    made = events(profile, records, tmp_path / "events.jsonl")
    timed = [one for every in records.values() for one in every if one["run"]]
    assert len(made) == 2 * len(timed) and {event["eventType"] for event in made} == {"START", "COMPLETE"}
    assert len({UUID(event["run"]["runId"]) for event in made}) == len(timed)
    for one in timed:
        wanted = {("rsqa/demo", *pair) for pair in one["recipe"]["inputs"].items()}
        wanted |= {("file", *pair) for pair in one["recipe"]["sources"].items()}
        named = [
            {(d["namespace"], d["name"], d["facets"]["version"]["datasetVersion"]) for d in event["inputs"]}
            for event in made
            if event["job"]["name"] == one["asset"]
        ]
        assert named and all(found == wanted for found in named) and wanted
    ends = [event["eventTime"] for event in made if event["eventType"] == "COMPLETE"]
    assert ends[0] == "2026-01-02T03:04:06.500000+00:00" and ends[-1] == "2026-01-03T00:00:02+00:00"
    assert made[0]["run"]["facets"]["parent"]["run"]["runId"] == RUN


def test_events_are_equal_each_time_and_records_without_a_time_are_counted(
    profile: Profile, records: Records, tmp_path: Path
) -> None:
    assert events(profile, records, tmp_path / "a") == events(profile, records, tmp_path / "b")
    assert write_openlineage(profile, records, tmp_path / "c") == (8, 1)
    with pytest.raises(UsageError, match="OpenLineage needs"):
        write_openlineage(profile, {"vlm_best": records["vlm_best"]}, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_column_lineage_is_stated_for_subsets_and_for_nothing_unknown(
    profile: Profile, records: Records, tmp_path: Path
) -> None:
    made = events(profile, records, tmp_path / "events.jsonl")
    facets = {event["job"]["name"]: event["outputs"][0]["facets"].get("columnLineage") for event in made}
    assert facets["image_text_pairs"] is None
    subset = facets["subset_best"]
    assert [(f["name"], f["field"]) for f in subset["fields"]["explained.rank"]["inputFields"]] == [
        ("pair_scores", "scores.score")
    ]
    assert {(f["name"], f["field"], f["transformations"][0]["type"]) for f in subset["dataset"]} == {
        ("image_text_pairs", "samples.split", "INDIRECT"),
        ("pair_scores", "scores.score", "INDIRECT"),
    }


@pytest.mark.parametrize(
    ("rule", "scores", "ranked"),
    [
        ({"selector": "random"}, set(), False),
        ({"selector": "blend", "weights": {"score_model": 1, "clip_score": 1}}, {"pair_scores", "clip_scores"}, True),
        ({"any_of": [{"selector": "clip_score"}, {"selector": "random"}]}, {"clip_scores"}, False),
        ({"selector": "oracle"}, {"image_text_pairs"}, True),
    ],
)  # fmt: skip
def test_the_rule_decides_which_columns_filter(rule: dict[str, Any], scores: set[str], ranked: bool) -> None:
    settings = {"curated_subsets.subsets.x": rule}
    lineage = column_lineage(record("subset_x", "x.dir", {"image_text_pairs": "p"}, settings=settings))
    assert lineage is not None
    assert {source.asset for source in lineage.rows if source.column != "samples.split"} == scores
    assert ("explained.rank" in lineage.columns) == ranked


def test_a_rule_of_another_version_has_no_column_lineage() -> None:
    settings = {"curated_subsets.subsets.x": {"selector": "of a later version"}}
    assert column_lineage(record("subset_x", "x.dir", {"image_text_pairs": "p"}, settings=settings)) is None


def test_prov_reads_back_and_states_every_use_and_one_generation_per_version(records: Records, tmp_path: Path) -> None:
    write_prov("demo", records, tmp_path / "prov.json")
    text = (tmp_path / "prov.json").read_text(encoding="utf-8")
    read = ProvDocument.deserialize(StringIO(text), format="json")
    assert read == prov_document("demo", records)
    every = [one for made in records.values() for one in made]
    used = sum(len(one["recipe"]["inputs"]) + len(one["recipe"]["sources"]) for one in every)
    first = {(one["asset"], one["data_version"]): one for one in reversed(every)}
    derived = sum(len(one["recipe"]["inputs"]) + len(one["recipe"]["sources"]) for one in first.values())
    named = {pair for one in every for part in ("inputs", "sources") for pair in one["recipe"][part].items()}
    assert len(list(read.get_records(ProvUsage))) == used
    assert len(list(read.get_records(ProvGeneration))) == len(first)
    assert len(list(read.get_records(ProvDerivation))) == derived
    assert len(list(read.get_records(ProvEntity))) == len(named | set(first))


def test_sqlite_holds_every_record_and_input(records: Records, tmp_path: Path) -> None:
    assert write_sqlite(records, tmp_path / "lineage.sqlite") == 5
    with closing(sqlite3.connect(tmp_path / "lineage.sqlite")) as database:
        rows = database.execute("SELECT record, asset, number, data_version, seconds, settings FROM records").fetchall()
        inputs = set(database.execute("SELECT record, kind, name, version FROM inputs"))
    wanted = [
        (record_hash(one), name, number, one["data_version"], float(one["run"].get("seconds", "nan")))
        for name, made in records.items()
        for number, one in enumerate(made, start=1)
    ]
    assert [row[:4] for row in rows] == [row[:4] for row in wanted]
    assert [row[4] for row in rows[:4]] == [row[4] for row in wanted[:4]] and rows[4][4] is None
    assert json.loads(rows[2][5])["curated_subsets.subsets.best"]["selector"] == "score_model"
    assert inputs == {
        (record_hash(one), kind, *pair)
        for made in records.values()
        for one in made
        for kind, part in (("asset", "inputs"), ("source", "sources"))
        for pair in one["recipe"][part].items()
    }
    write_sqlite(records, tmp_path / "again.sqlite")
    assert (tmp_path / "again.sqlite").read_bytes() == (tmp_path / "lineage.sqlite").read_bytes()
    assert (tmp_path / "again.sqlite").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("form", ["openlineage", "prov", "sqlite"])
def test_user_mistakes_write_nothing(form: str, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    for out in (there, tmp_path):
        done = CliRunner().invoke(app, ["lineage", "export", "--format", form, "--out", str(out)])
        assert isinstance(done.exception, UsageError)
    assert there.read_text() == "mine" and list(tmp_path.iterdir()) == [there]
