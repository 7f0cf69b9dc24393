"""The questions of the index."""

from __future__ import annotations

from rsqa_pipeline.evidence.index import LINKS, questions


def test_each_question_is_answered_here_or_left_to_the_operator() -> None:
    found = questions()
    assert len({question["point"] for question in found}) == len(found)
    for question in found:
        assert set(question) == {"point", "question", "documents", "here", "operator"}
        assert set(question["documents"]) <= set(LINKS)
        assert bool(question["documents"]) == bool(question["here"]), question["point"]
        assert question["operator"] and "|" not in str(question)


def test_every_article_and_point_is_there() -> None:
    points = " ".join(question["point"] for question in questions())
    for part in ("Art. 10", "Art. 11", "Art. 12", *(f"Annex IV {number}" for number in range(1, 8))):
        assert part in points
