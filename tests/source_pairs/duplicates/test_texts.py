"""Similar questions, and benchmark texts in training texts."""

from __future__ import annotations

import numpy as np
import pytest

from rsqa_pipeline.profile import Compute
from rsqa_pipeline.source_pairs.duplicates import questions
from rsqa_pipeline.source_pairs.duplicates.questions import question_of, similar_pairs, text_vectors
from rsqa_pipeline.source_pairs.duplicates.shared_text import MAX_TEXTS_PER_NGRAM, shared_texts

LONG = "two white storage tanks stand beside a narrow road on the left of a small green pond near a field"


def test_question_is_the_text_of_the_user() -> None:
    turns = [("user", "how many?"), ("assistant", "3"), ("user", "what colour?"), ("assistant", "red")]
    assert question_of([{"role": r, "content": c} for r, c in turns]) == "how many?\nwhat colour?"
    assert question_of([{"role": "assistant", "content": "a port ."}]) == "a port ."


def test_similar_pairs_equal_those_of_the_full_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "_BLOCK", 3)
    vectors = np.random.default_rng(0).standard_normal((11, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = np.nonzero(np.triu(vectors @ vectors.T >= 0.5, k=1))
    assert similar_pairs(vectors, 0.5).T.tolist() == list(map(list, zip(first.tolist(), second.tolist(), strict=True)))


def test_tf_idf_separates_numbers_and_subjects() -> None:
    texts = [
        "How many ships are in the harbour?", "how many ships are in the harbour", "What colour is the roof?",
        "Is there a bridge of 3 lanes?", "Is there a bridge of 4 lanes?",
    ]  # fmt: skip
    vectors = text_vectors(texts, None, Compute(device="cpu"))
    assert (vectors @ vectors.T).toarray()[3, 4] < 1
    assert similar_pairs(vectors, 0.9).T.tolist() == [[0, 1]]


def test_thirteen_words_in_a_row_are_shared() -> None:
    words = LONG.split()
    texts = [
        "It shows: " + " ".join(words[:13]).upper() + "!",
        "It shows " + " ".join(words[:12]),
        " ".join([*words[:12], "a", *words[12:]]),
    ]
    found = shared_texts(texts, ["another text", LONG])
    assert [(shared.text, shared.test_text) for shared in found] == [(0, 1)]
    assert found[0].share == pytest.approx(1 / 3)  # 15 words, so 3 runs


def test_common_phrases_and_short_texts_are_no_evidence() -> None:
    assert len(shared_texts([LONG] * MAX_TEXTS_PER_NGRAM, [LONG])) == MAX_TEXTS_PER_NGRAM
    assert shared_texts([LONG] * (MAX_TEXTS_PER_NGRAM + 1), [LONG]) == []
    assert shared_texts(["what class of scene is this? airport"], ["what class of scene is this? airport"]) == []
