"""Reading JSON record by record gives the same values as the json module, with their bytes, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.readers import json_records
from rsqa_pipeline.source_pairs.readers.json_records import Record, records
from rsqa_pipeline.source_pairs.source_row import RowFault

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(params=[1, 7, 1 << 20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes read at once; with 1, every position is a chunk boundary."""
    monkeypatch.setattr(json_records, "CHUNK_BYTES", request.param)
    return int(request.param)


def read_all(path: Path, arrays: tuple[str, ...]) -> tuple[list[Record], list[RowFault]]:
    found = list(records(path, arrays, "a layout"))
    return [r for r in found if isinstance(r, Record)], [r for r in found if isinstance(r, RowFault)]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(VALUES, max_size=6), ascii_only=st.booleans(), indent=st.none() | st.integers(0, 2))
@pytest.mark.usefixtures("chunk")
def test_records_are_the_elements_and_their_bytes(
    rows: list[Any], ascii_only: bool, indent: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.json"
    content = {"a": rows[:1], "info": {"rows": [1]}, "rows": rows, "other": [[1, 2], {}], "n": 3.5}
    for complete, arrays in ((rows, ()), (content, ("rows",)), (content, ("a", "rows"))):
        data = json.dumps(complete, ensure_ascii=ascii_only, indent=indent).encode()
        path.write_bytes(data)
        found, faults = read_all(path, arrays)
        expected = [("a", row) for row in rows[:1] if "a" in arrays] + [(arrays[-1] if arrays else "", r) for r in rows]
        assert [(record.array, record.value) for record in found] == expected
        assert not faults
        for record in found:
            assert data[record.start : record.end] == record.raw
            assert json.loads(record.raw) == record.value


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(VALUES, min_size=1, max_size=4), cut=st.floats(0, 1, exclude_max=True), as_object=st.booleans())
@pytest.mark.usefixtures("chunk")
def test_a_truncated_file_gives_its_complete_records_and_one_fault(
    rows: list[Any], cut: float, as_object: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.json"
    complete = json.dumps({"rows": rows, "info": "x"} if as_object else rows, ensure_ascii=False).encode()
    path.write_bytes(complete)
    arrays = ("rows",) if as_object else ()
    everything, _ = read_all(path, arrays)
    length = 1 + int(cut * (len(complete) - 1))
    path.write_bytes(complete[:length])
    found, faults = read_all(path, arrays)
    # a number at the end of the file may have had more digits
    certain = [r for r in everything if r.end < length or (r.end == length and isinstance(r.value, dict | list | str))]
    assert found == certain
    assert [fault.reason for fault in faults] == ["truncated_file"]


@pytest.mark.parametrize(
    ("content", "needed"),
    [
        (b'[{"a": 1}, {"b" 2}, {"c": 3}]', "not valid JSON at byte 11"),
        (b'[{"a": 1} {"c": 3}]', "expecting ','"),
        (b"[1, 2,]", "not valid JSON"),
        (b"[1, 2] [3]", "something follows"),
        (b"", "empty"),
        (b"\xff\xfe[\x001\x00]\x00", "UTF-8"),
        (b"[1" + b"0" * 5000 + b", 1]", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"12 ", "needs a list of rows, found int"),
        (b"{}", "needs a list of rows, found dict"),
    ],
)
@pytest.mark.usefixtures("chunk")
def test_a_file_without_a_list_of_records_is_an_error(content: bytes, needed: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(DataError, match=needed):
        list(records(tmp_path / "rows.json", (), "a layout"))


@pytest.mark.parametrize("content", [b"[]", b'{"other": []}', b'{"rows": {"a": 1}}', b'"rows"'])
def test_a_missing_array_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(DataError, match="is not a layout: needs a list 'rows', found"):
        list(records(tmp_path / "rows.json", ("rows",), "a layout"))


def test_memory_is_bounded(tmp_path: Path) -> None:
    row = json.dumps({"text": "x" * 2000, "more": "\u6a4b" * 200}, ensure_ascii=False)
    path = tmp_path / "large.json"
    path.write_text('{"skipped": [' + ",".join([row] * 6000) + '], "rows": [' + ",".join([row] * 6000) + "]}")
    assert path.stat().st_size > 30e6
    tracemalloc.start()
    count = sum(1 for _ in records(path, ("rows",), "a layout"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 6000
    assert peak < 10e6
