"""The explorer's data: decisions and reasons as `rsqa curate` gives them, images in sheets, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.explorer.build import refuse_used_folder, write_page
from rsqa_pipeline.explorer.exploration import Exploration, ExploredSample, drawn
from rsqa_pipeline.explorer.thumbnails import CELL_PIXELS, PER_SHEET, PER_SIDE, write_thumbnails


def data_of(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (page / "data.js").read_text("ascii").removeprefix("const DATA = ").rstrip(";\n")
    )
    return found


def rows_of(page: Path) -> dict[str, dict[str, Any]]:
    """The page's rows by key, coded columns decoded."""

    def values(column: Any) -> list[Any]:
        if isinstance(column, dict):
            return [None if code < 0 else column["names"][code] for code in column["codes"]]
        return list(column)

    columns = {name: values(column) for name, column in data_of(page)["columns"].items()}
    return {key: {name: column[n] for name, column in columns.items()} for n, key in enumerate(columns["key"])}


def explore(*words: object) -> str:
    done = CliRunner().invoke(app, ["explore", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


def with_data(scored: Path) -> list[object]:
    return [scored, "--data", scored.with_name("pairs.jsonl"), "--format", "jsonl"]


def test_a_scored_file_with_its_texts(scored: Path, tmp_path: Path) -> None:
    explore(*with_data(scored), "--keep", 0.5, "--out", tmp_path / "page")
    rows = rows_of(tmp_path / "page")
    assert len(rows) == 30
    assert [key for key, row in rows.items() if row["state"] == "kept"] == [f"r{n}" for n in range(14, 28)]
    low = rows["r3"]
    assert (low["reason"], low["rank"], low["rule"]) == ("outside_top", 25, "score_model: best 50% of captions")
    assert low["score"] == 3.0 and low["percentile"] == pytest.approx(100 * 4 / 28, abs=1e-4)
    lost = rows["r28"]
    assert (lost["state"], lost["reason"], lost["fault"], lost["score"]) == (
        "quarantined",
        *["missing_image"] * 2,
        None,
    )
    assert lost["detail"] == "image_14.png cannot be read" and lost["imageFault"].startswith("missing_image: ")
    assert lost["thumbnail"] == -1 and rows["r0"]["thumbnail"] == rows["r1"]["thumbnail"] == 0
    assert rows["r0"]["text"] == "<script>window.hacked = 1</script> ships"
    assert {row["source"] for row in rows.values()} == {"odd", "even"}


def test_without_the_texts_decisions_are_the_same(scored: Path, tmp_path: Path) -> None:
    explore(*with_data(scored), "--keep", 0.5, "--out", tmp_path / "one")
    said = explore(scored, "--keep", 0.5, "--out", tmp_path / "two")
    assert "30 of 30 samples" in said
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert one.keys() == two.keys()
    for key in one:
        assert [one[key][name] for name in ("state", "score", "rank")] == [
            two[key][name] for name in ("state", "score", "rank")
        ]
    assert two["r0"]["text"] is None


def test_changed_text_has_no_score(scored: Path, tmp_path: Path) -> None:
    table = pq.read_table(scored)
    hashes = ["0" * 64, *[None] * (len(table) - 1)]
    pq.write_table(table.append_column("text_hash", [hashes]), scored)
    explore(*with_data(scored), "--keep", 0.5, "--out", tmp_path / "page")
    row = rows_of(tmp_path / "page")["r0"]
    assert (row["state"], row["reason"], row["score"]) == ("dropped", "stale_score", None)


def test_a_page_has_at_most_so_many_samples_and_always_the_same(scored: Path, tmp_path: Path) -> None:
    said = explore(*with_data(scored), "--samples", 7, "--out", tmp_path / "page")
    assert "7 of 30 samples" in said
    first = rows_of(tmp_path / "page")
    explore(*with_data(scored), "--samples", 7, "--out", tmp_path / "page")
    assert list(first) == list(rows_of(tmp_path / "page")) and len(first) == 7
    assert data_of(tmp_path / "page")["facts"]["total"] == 30
    assert drawn(["a", "b"], 2) is None


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/a.txt").write_text("dear")
    with pytest.raises(UsageError, match="holds other files"):
        refuse_used_folder(tmp_path / "letters")
    assert (tmp_path / "letters/a.txt").is_file()


def test_an_unfinished_page_is_written_again(scored: Path, tmp_path: Path) -> None:
    (tmp_path / "page.unfinished").mkdir()
    (tmp_path / "page.unfinished/data.js").write_text("half")
    explore(scored, "--out", tmp_path / "page")
    assert not (tmp_path / "page.unfinished").exists() and len(rows_of(tmp_path / "page")) == 30


def test_data_is_ascii_and_numbers_are_numbers(tmp_path: Path) -> None:
    samples = [
        ExploredSample(
            key="a", state="kept", score=float("nan"), messages=[{"role": "assistant", "content": "\u2028é"}]
        ),
        ExploredSample(key="b", state="dropped", reason="no_score", score=1 / 3),
    ]
    write_page(Exploration("title", samples, 2), tmp_path / "page")
    rows = rows_of(tmp_path / "page")
    assert (rows["a"]["score"], rows["b"]["score"]) == (None, 0.3333333)
    assert rows["a"]["text"] == "\u2028é"


def test_thumbnails_fill_sheets_and_keep_their_shape(tmp_path: Path) -> None:
    names = []
    for number in range(PER_SHEET + 3):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (90, 30), (0, 200, 0) if number == PER_SHEET + 1 else (200, 0, 0)).save(path)
        names += [str(path)] * 2
    (tmp_path / "torn.png").write_bytes((tmp_path / "0.png").read_bytes()[:50])
    found = write_thumbnails([*names, str(tmp_path / "torn.png"), str(tmp_path / "no.png")], tmp_path / "sheets")
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == ["0.jpg", "1.jpg"]
    assert (found[str(tmp_path / "torn.png")].index, found[str(tmp_path / "no.png")].index) == (-1, -1)
    assert found[str(tmp_path / "no.png")].fault.startswith("missing_image: ")
    with Image.open(tmp_path / "sheets" / "1.jpg") as sheet:
        assert sheet.size == (CELL_PIXELS * PER_SIDE,) * 2
        cell = np.asarray(sheet)[:CELL_PIXELS, CELL_PIXELS : 2 * CELL_PIXELS].astype(int)
    middle = cell[CELL_PIXELS // 2, CELL_PIXELS // 2]
    assert middle[1] > 150 > middle[0]
    assert cell[: CELL_PIXELS // 4].max() < 40  # black above a wide image
