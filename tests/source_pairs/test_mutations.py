"""Damaged files: every one is read, quarantined or refused with the project's own error, in bounded time.

``RSQA_MUTATIONS=1000`` tries as many mutations of each kind of file; the suite tries a few.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.preference_data.importers.add_imports import IMPORTERS
from rsqa_pipeline.profile import SourceFile, load_profile
from rsqa_pipeline.profile.preference_data import PairFile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.source_pairs.clean import ImageIndex, check_rows
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from tests.source_pairs.generated_files import FORMATS, Row, write

MUTATIONS = int(os.environ.get("RSQA_MUTATIONS", "15"))
MAX_SECONDS = 10
PROFILES = Path(__file__).resolve().parents[2] / "configs" / "profiles"
TOKENS = (
    b"null", b"[", b"]", b"{", b"}", b'"', b",", b":", b"NaN", b"1e999", b"-1", b"9" * 400, b"\\ud800", b"\xff\xfe",
    b"\0", b"\n", b"\r", b"\xe2\x80\xa8", b"../", b"#0+9", b"<image>", b"*x", b"&x ", b"<<: ", 
    b"!!python/object:os.system ", b"%2e%2e", b"\xef\xbb\xbf", b"'", b";", b"\t", b"[" * 3000, b"\xf0\x9f\x98",
)  # fmt: skip
KNOWN = {"hf_parquet_lists": (501,)}
"""Mutations that once failed: 501 made pyarrow abort the process, on a column's damaged statistics."""
ROWS = [Row(1, ("two ships .", "a pier ; \u6a4b .")), Row(2, ("one",), "missing"), Row(3, ('a "quoted" dam .',))]


def mutate(data: bytes, draw: random.Random) -> bytes:
    """One to four changes: a flipped bit, a piece cut out, repeated, moved or overwritten, the end cut off."""
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(len(data) + 1)
        end = min(len(data), start + draw.choice((1, 2, 8, 40, 600)))
        piece = data[start:end]
        token = draw.choice(TOKENS)
        changed = {
            "flip": bytes(byte ^ (1 << draw.randrange(8)) for byte in piece[:1]) + piece[1:],
            "cut": b"",
            "repeat": piece * draw.choice((2, 50)),
            "insert": token + piece,
            "overwrite": token,
        }
        kind = draw.choice((*changed, "truncate", "swap"))
        if kind == "truncate":
            data = data[:start]
        elif kind == "swap":
            data = data[:start] + data[end:] + piece
        else:
            data = data[:start] + changed[kind] + data[end:]
    return data


@contextmanager
def time_limit(what: str) -> Iterator[None]:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"{what}: more than {MAX_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def try_mutations(path: Path, name: str, use: Callable[[], object]) -> None:
    """Fails with the mutation's number if ``use`` raises anything but the project's own error of at most a few
    lines."""
    original = path.read_bytes()
    for number in (*range(MUTATIONS), *KNOWN.get(name, ())):
        path.write_bytes(mutate(original, random.Random(f"{name} {number}")))
        try:
            with time_limit(f"{name} {number}"):
                use()
        except RsqaError as error:
            assert str(error)
        except Exception as error:
            raise AssertionError(f"mutation {number} of {name}: {type(error).__name__}: {error}") from error
    path.write_bytes(original)
    use()


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
    try_mutations(Path(source.path or ""), form.__name__, lambda: ingest(source))


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
    try_mutations(path, f"{form} {ending}", lambda: list(IMPORTERS[file.format](file)))


@pytest.mark.parametrize("profile", ["demo", "rsicd"])
def test_mutated_profiles(profile: str, tmp_path: Path) -> None:
    for file in PROFILES.glob("*.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / f"{profile}.yaml"

    def load() -> None:
        try:
            load_profile(str(path))
        except RsqaError as error:
            assert str(error)

    try_mutations(path, profile, load)
