"""Damaged files: every one is read, quarantined or refused with the project's own error; see `tests.mutations`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsqa_pipeline.preference_data.importers.add_imports import IMPORTERS
from rsqa_pipeline.profile import SourceFile, load_profile
from rsqa_pipeline.profile.preference_data import PairFile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.source_pairs.clean import ImageIndex, check_rows
from rsqa_pipeline.source_pairs.from_scenes import caption_drafts
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from tests.mutations import try_mutations
from tests.source_pairs.generated_files import FORMATS, Row, write

PROFILES = Path(__file__).resolve().parents[2] / "configs" / "profiles"
FEW = 15
KNOWN = {"hf_parquet_lists": (501,)}
"""Mutations that once failed: 501 made pyarrow abort the process, on a column's damaged statistics."""
ROWS = [Row(1, ("two ships .", "a pier ; \u6a4b .")), Row(2, ("one",), "missing"), Row(3, ('a "quoted" dam .',))]


def ingest(source: SourceFile) -> None:
    quarantine = Quarantine("image_text_pairs")
    rows: list[str] = []

    def counted() -> Iterator[object]:
        for entry in read_source(source):
            rows.append(entry.key)
            yield entry

    kept = check_rows(counted(), ImageIndex(10_000), quarantine)  # type: ignore[arg-type]
    assert len(kept) + len(quarantine.rows) == len(rows)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__)
def test_mutated_source_files(form: Callable[[Path, Sequence[Row]], SourceFile], tmp_path: Path) -> None:
    source = write(tmp_path / "data", ROWS, form)
    try_mutations(Path(source.path or ""), form.__name__, lambda: ingest(source), FEW, KNOWN.get(form.__name__, ()))


def test_mutated_captions_of_scenes(tmp_path: Path) -> None:
    sources = load_profile("demo").source_pairs
    path = tmp_path / "captions.csv"
    lines = Path(sources.captions.path or "").read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:4]), encoding="utf-8")
    read = sources.model_copy(update={"captions": sources.captions.model_copy(update={"path": str(path)})})
    try_mutations(path, "scenes", lambda: caption_drafts(read, 0, tmp_path, Quarantine("image_text_pairs")), FEW)


TURNS = {"role": "user", "content": "How many?"}, {"role": "assistant", "content": "2"}
PAIR = {
    "rs_pairs": {"image": "1.png", "question": "How many?", "chosen": "2", "rejected": ["3", "4"]},
    "ultrafeedback": {"prompt": "?", "chosen": list(TURNS), "rejected": list(TURNS), "score_chosen": 8.5},
    "rlhf_v": {"image": "1.png", "text": json.dumps({"question": "How many?", "chosen": "2", "rejected": "3"})},
    "trl": {"images": ["1.png"], "prompt": [TURNS[0]], "chosen": [TURNS[1]], "rejected": [TURNS[1]]},
}


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize("form", PAIR)
def test_mutated_preference_files(form: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"pairs.{ending}"
    (tmp_path / "1.png").write_bytes(ROWS[0].data)
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist([PAIR[form]] * 3), path)
    else:
        path.write_text(json.dumps([PAIR[form]] * 3) if ending == "json" else f"{json.dumps(PAIR[form])}\n" * 3)
    file = PairFile(format=form, path=str(path))  # type: ignore[arg-type]
    try_mutations(path, f"{form} {ending}", lambda: list(IMPORTERS[file.format](file)), FEW)


@pytest.mark.parametrize("profile", ["demo", "rsicd"])
def test_mutated_profiles(profile: str, tmp_path: Path) -> None:
    if profile == "rsicd" and not Path("../shared/rsicd").is_dir():
        pytest.skip("profile rsicd names ../shared/rsicd, which is not there")
    for file in PROFILES.glob("*.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / f"{profile}.yaml"
    try_mutations(path, profile, lambda: load_profile(str(path)), FEW)
