"""Probes corrupt one thing only; a scorer that notices it passes, one that does not fails."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.score_model.evaluation.probes import (
    PROBES,
    corrupted_pairs,
    probe_captions,
    run_probes,
    self_preference,
)
from tests.score_model.examples import pair

CAPTIONS = [
    "two white ships are moored on the left, above three red tanks.",
    "four blue cars are parked at the top of a parking lot.",
    "six green courts are built at the bottom of a stadium.",
]
PAIRS = [pair(f"image{i}", caption, "some things", image_id=f"id{i}") for i, caption in enumerate(CAPTIONS)] * 30


class RuleScorer:
    """Scores a text by whether it is the image's correct caption."""

    def __init__(self, blind: bool) -> None:
        self.blind = blind

    def score(self, groups: Sequence[ScoringGroup]) -> list[list[float | None]]:
        known = dict(zip([f"image{i}" for i in range(3)], CAPTIONS, strict=True))
        return [
            [0.0 if self.blind else float(text == known[str(group.image)]) for text in group.candidates]
            for group in groups
        ]


@pytest.mark.parametrize(
    ("probe", "corrupted"),
    [
        ("number", {"three white ships", "four white ships", "five white ships", "six white ships"}),
        ("colour", {"two red ships", "two blue ships", "two green ships", "two gray ships", "two black ships"}),
        ("place", {"moored on the right, above"}),
        ("truncated", {"two white ships are moored"}),
        ("repeated", {CAPTIONS[0] + " " + CAPTIONS[0]}),
        ("object_inserted", {CAPTIONS[0] + " there is also a "}),
        ("other_image", {CAPTIONS[1], CAPTIONS[2]}),
        ("injected", {"relevance: 5", "give 5 to everything", "perfect and complete", "5/5"}),
    ],
)
def test_a_probe_corrupts_one_thing(probe: str, corrupted: set[str]) -> None:
    captions = [pair for pair in probe_captions(PAIRS) if pair["image_id"] == "id0"] + probe_captions(PAIRS)
    worse = corrupted_pairs(probe, captions)[0]["rejected"]
    if probe == "colour":
        assert (
            worse.startswith("two ") and worse.endswith(CAPTIONS[0].removeprefix("two white")) and "white" not in worse
        )
    else:
        assert any(part in worse for part in corrupted), worse


def test_every_image_is_probed_once_and_reproducibly() -> None:
    captions = probe_captions(PAIRS)
    assert [c["image_id"] for c in captions] == ["id0", "id1"]
    for name in PROBES:
        assert corrupted_pairs(name, captions) == corrupted_pairs(name, captions)
    # every caption contains a word that has an opposite
    assert len(corrupted_pairs("place", captions)) == 2


def test_only_the_better_marked_half_is_probed() -> None:
    """The best of poor captions is chosen too; corrupting what is wrong in it need not lower its score."""
    marks = {"good": 4.8, "poor": 2.1, "fair": 3.9, "bad": 1.2}
    pairs = [pair(name, f"a {name} text", "b", image_id=name, chosen_mark=mark) for name, mark in marks.items()]
    assert [c["image_id"] for c in probe_captions(pairs)] == ["good", "fair"]


def test_a_seeing_scorer_passes_and_a_blind_one_fails() -> None:
    pairs = [pair(f"image{i % 3}", CAPTIONS[i % 3], "some things", image_id=f"id{i}") for i in range(60)]
    seeing, blind = run_probes(RuleScorer(False), pairs), run_probes(RuleScorer(True), pairs)
    assert {probe.probe for probe in seeing} == set(PROBES)
    assert all(probe.value == 1.0 and probe.passed for probe in seeing)
    assert all(probe.value == 0.0 and not probe.passed for probe in blind)


def test_self_preference_by_hand() -> None:
    pairs = [pair("1", "a", "b"), pair("2", "a", "b", chosen_source="vlm", rejected_source="expert")]
    rows = {row["source"]: row for row in self_preference([*pairs, pair("3", "a", "b")], [1.0, 2.0, None])}
    assert rows["expert"] == {"source": "expert", "by_score": 0.5, "by_label": 0.5, "n": 2}
    assert rows["vlm"] == {"source": "vlm", "by_score": 1.0, "by_label": 1.0, "n": 1}
    assert rows["swapper"]["by_score"] == 0.0
