from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import load_profile
from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.corpus import (
    ANSWER_SHARES,
    CAPTION_SHARES,
    CORPUS_ONLY,
    DEMO_SCENES,
    DEMO_SEED,
    demo_captions,
    instruction_samples,
    read_corpus,
    write_demo_corpus,
)
from rsqa_pipeline.scenes.marks import mark_answer, mark_caption
from rsqa_pipeline.scenes.questions import ANSWERERS
from rsqa_pipeline.scenes.truth import INSTRUCTION_SEEDS, sample_scene

COMMITTED = Path(__file__).parents[2] / "data/demo/corpus/captions.csv"


def test_the_committed_corpus_is_what_the_code_writes(tmp_path: Path) -> None:
    written = tmp_path / "captions.csv"
    write_demo_corpus(written, range(DEMO_SCENES), DEMO_SEED)
    assert written.read_bytes() == COMMITTED.read_bytes()
    assert COMMITTED.stat().st_size < 1_200_000


def test_the_corpus_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    write_demo_corpus(path, range(40), 3)
    rows = [(str(row.scene), row.source, row.caption) for row in demo_captions(range(40), 3)]
    assert [tuple(row.values()) for row in read_corpus(path)] == rows


def test_a_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("scene,text\n1,a harbour\n", encoding="utf-8")
    with pytest.raises(DataError, match="found scene, text"):
        read_corpus(path)


def test_invalid_utf8_is_left_to_the_ingest(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_bytes(b"scene,source,caption\n1,expert,caf\xe9\n2,expert\n")
    rows = read_corpus(path)
    assert rows[0]["caption"] == "caf\udce9"
    assert rows[1]["caption"] == ""


def test_about_a_third_of_the_captions_are_good() -> None:
    rows = demo_captions(range(500), DEMO_SEED)
    good = [row for row in rows if row.source in ("expert", "plain")]
    assert len(good) == pytest.approx(0.29 * len(rows), abs=3)
    marks = {id(row): mark_caption(sample_scene(row.scene), row.caption).mean for row in rows}
    assert np.mean([marks[id(row)] for row in good]) > np.mean(list(marks.values())) + 0.6


def test_more_answers_are_right_than_are_kept() -> None:
    rows = instruction_samples(INSTRUCTION_SEEDS[:400], DEMO_SEED)
    assert len(rows) == 800
    assert 0.6 < np.mean([row.answer == row.question.answer for row in rows]) < 0.72
    assert rows == instruction_samples(INSTRUCTION_SEEDS[:400], DEMO_SEED)
    marks = [mark_answer(sample_scene(row.scene), row.question.question, row.answer).mean for row in rows]
    assert np.mean(marks) < 4.3


def test_the_largest_share_is_a_writer_that_no_preference_is_about() -> None:
    for shares in (CAPTION_SHARES, ANSWER_SHARES):
        assert max(shares, key=lambda name: shares[name]) in CORPUS_ONLY
    assert not set(CORPUS_ONLY) & set(load_profile("demo").preference_data.captioners)


def test_every_writer_has_a_share() -> None:
    assert set(CAPTION_SHARES) == set(CAPTIONERS)
    assert set(ANSWER_SHARES) == set(ANSWERERS)
    assert sum(CAPTION_SHARES.values()) == pytest.approx(1)
    assert sum(ANSWER_SHARES.values()) == pytest.approx(1)
