"""One contradiction at a time, for audits: each function changes a finished project and returns what must be named."""

from __future__ import annotations

import json
import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.lineage.links import RECORD, record_hash
from rsqa_pipeline.stages import assets_of
from tests.pipeline.project import Project


def _outputs(project: Project, pattern: str) -> list[Path]:
    return sorted(path for path in project.data.glob(pattern) if path.is_file() and path.stat().st_size)


def _rewrite(path: Path, table: pa.Table) -> str:
    pq.write_table(table, path)
    return path.parent.name


def _table(project: Project, rng: random.Random) -> tuple[Path, pa.Table]:
    tables = [(path, pq.read_table(path)) for path in _outputs(project, "*/*/*.parquet")]
    return rng.choice([(path, table) for path, table in tables if len(set(map(str, table.to_pylist()))) > 2])


def changed_byte(project: Project, rng: random.Random) -> str:
    path = rng.choice([path for path in _outputs(project, "*/*/**/*") if path.suffix != ".parquet"])
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))
    return path.relative_to(project.data).parts[1]


def replaced_score(project: Project, rng: random.Random) -> str:
    path = rng.choice(_outputs(project, "curated_subsets/*/scores.parquet"))
    table = pq.read_table(path)
    scores = table["score"].to_pylist()
    scores[rng.randrange(len(scores))] += rng.choice([-1.0, 0.01, 2.0])
    column = table.schema.get_field_index("score")
    return _rewrite(path, table.set_column(column, table.schema.field(column), pa.array(scores, pa.float32())))


def reordered_row(project: Project, rng: random.Random) -> str:
    path, table = _table(project, rng)
    rows, order = list(map(str, table.to_pylist())), list(range(table.num_rows))
    first = rng.randrange(len(order))
    second = rng.choice([number for number in order if rows[number] != rows[first]])
    order[first], order[second] = second, first
    return _rewrite(path, table.take(order))


def missing_row(project: Project, rng: random.Random) -> str:
    path, table = _table(project, rng)
    gone = rng.randrange(table.num_rows)
    return _rewrite(path, table.take([number for number in range(table.num_rows) if number != gone]))


def edited_settings(project: Project, rng: random.Random) -> str:
    path = project.root / "configs/profiles/smoke.yaml"
    line, asset = rng.choice(
        [
            ("gallery_size", "curation_report"),
            ("text_pairs", "text_preferences"),
            ("caption_images", "caption_preferences"),
        ]
    )
    path.write_text(re.sub(rf"{line}: \d+", f"{line}: {rng.randrange(30, 90)}", path.read_text()))
    return asset


def edited_manifest(project: Project, rng: random.Random) -> str:
    path = rng.choice(sorted((project.root / ".rsqa/smoke/manifests").glob("*.jsonl")))
    record = json.loads(path.read_text().splitlines()[-1])
    part = rng.choice(["commit", "seed", "metric", "torn", "resealed"])
    if part in ("commit", "torn") or path.stem in ("curation_report", "lineage_manifest"):
        record["run"]["git_commit"] = "0" * 40
    elif part == "metric":
        record["metrics"] = {**record["metrics"], "new": 1.0}
    else:
        record["recipe"]["settings"]["seed"] = rng.randrange(100, 999)
        record["run"][RECORD] = record_hash(record) if part == "resealed" else record["run"][RECORD]
    line = json.dumps(record, sort_keys=True)
    path.write_text((line[: len(line) // 2] if part == "torn" else line) + "\n")
    return path.stem


def _in_mlflow(project: Project, statement: str, values: tuple[object, ...]) -> None:
    with closing(sqlite3.connect(project.root / ".rsqa/smoke/mlflow.db")) as database, database:
        assert database.execute(statement, values).rowcount == 1


def _from_mlflow(project: Project, query: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(project.root / ".rsqa/smoke/mlflow.db")) as database:
        return sorted(database.execute(query))


def moved_alias(project: Project, rng: random.Random) -> str:
    name, alias = rng.choice(_from_mlflow(project, "SELECT name, alias FROM registered_model_aliases"))
    statement = rng.choice(["DELETE FROM registered_model_aliases", "UPDATE registered_model_aliases SET version = 9"])
    _in_mlflow(project, f"{statement} WHERE name = ? AND alias = ?", (name, alias))
    return name


def changed_metric(project: Project, rng: random.Random) -> str:
    path = rng.choice(sorted((project.root / "metrics/smoke").glob("*.json")))
    metrics = json.loads(path.read_text())
    metrics[rng.choice(sorted(metrics))] = rng.choice([-1.5, 12345.0])
    path.write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n")
    return path.stem


def stale_asset(project: Project, rng: random.Random) -> str:
    lines = project.captions.read_text(encoding="utf-8").splitlines()
    lines[rng.randrange(1, len(lines))] += f" {rng.randrange(1000)}"
    project.captions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "image_text_pairs"


def wrong_subset(project: Project, rng: random.Random) -> str:
    path = rng.choice([p for p in _outputs(project, "curated_subsets/*/ids.parquet") if "_all" not in p.parent.name])
    table, dropped = pq.read_table(path), pq.read_table(path.parent / "explained.parquet")
    rows, other = table.to_pylist(), rng.choice(dropped.to_pylist())
    rows[rng.randrange(len(rows))] = {"sample_id": other["key"], "kind": other["kind"]}
    return _rewrite(path, pa.Table.from_pylist(sorted(rows, key=lambda row: row["sample_id"]), table.schema))


def data_digest(project: Project, rng: random.Random) -> str:
    query = "SELECT name, version FROM model_version_tags WHERE key = 'dvc.md5'"
    name, version = rng.choice(_from_mlflow(project, query))
    statement = "UPDATE model_version_tags SET value = ? WHERE key = 'dvc.md5' AND name = ? AND version = ?"
    _in_mlflow(project, statement, (f"{rng.getrandbits(128):032x}.dir", name, version))
    return name


def dirty_tree(project: Project, rng: random.Random) -> str:
    path = rng.choice(sorted((project.root / ".rsqa/smoke/manifests").glob("*.jsonl")))
    record = json.loads(path.read_text().splitlines()[-1])
    record["run"]["git_changed_files"] = str(rng.randrange(1, 9))
    record["run"][RECORD] = record_hash(record)
    path.write_text(json.dumps(record, sort_keys=True) + "\n")
    return path.stem


MUTATIONS: tuple[Callable[[Project, random.Random], str], ...] = (
    changed_byte, replaced_score, reordered_row, missing_row, edited_settings, edited_manifest, moved_alias,
    changed_metric, stale_asset, wrong_subset, data_digest, dirty_tree,
)  # fmt: skip


@contextmanager
def restored(project: Project) -> Iterator[None]:
    """Puts back every file that an audit reads and that was changed inside."""
    folders = [project.data, project.root / ".rsqa/smoke/manifests", project.root / "metrics/smoke"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files += [project.captions, project.root / "configs/profiles/smoke.yaml", project.root / ".rsqa/smoke/mlflow.db"]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    assert before and assets_of(project.profile)
    try:
        yield
    finally:
        for path, (_, content) in before.items():
            if path.read_bytes() != content:
                path.write_bytes(content)
