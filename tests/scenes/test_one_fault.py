"""One-fault texts: the right one holds, and each wrong one differs from the truth in exactly its kind of claim."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from rsqa_pipeline.scenes.asking import UNANSWERABLE
from rsqa_pipeline.scenes.claims import Claims, Mention, read_claims
from rsqa_pipeline.scenes.marks import mark_answer, mark_caption
from rsqa_pipeline.scenes.one_fault import CHANGES, MADE_UP_ANSWERS, WRONG_TEXTS, expert_set, unanswerable_set
from rsqa_pipeline.scenes.truth import BENCHMARK_SEEDS, sample_scene

SCENES = [sample_scene(seed) for seed in BENCHMARK_SEEDS[:400]]


def claimed(claims: Claims, kind: str) -> object:
    """What the text claims of a kind; relations belong to the place, land cover and activity follow the class."""
    mentions = claims.mentions
    by_kind = {
        "count": [m.count for m in mentions],
        "colour": [m.colour for m in mentions],
        "place": [(m.place, m.relation and m.relation[0]) for m in mentions],
        "class": ([m.object_class for m in mentions], claims.scenes),
    }
    return by_kind[kind]


def facts(mention: Mention) -> tuple[object, ...]:
    return mention.object_class, mention.count, mention.colour, mention.place, mention.activity


@pytest.mark.parametrize("kind", CHANGES)
def test_a_wrong_text_has_one_fault_and_a_lower_mark(kind: str) -> None:
    made = 0
    for truth in SCENES:
        texts = expert_set(truth, kind, np.random.default_rng((7, truth.seed)))
        if texts is None:
            continue
        made += 1
        right = read_claims(texts.right)
        assert mark_caption(truth, texts.right).mean == 5
        assert len({texts.right, *texts.wrong}) == 1 + WRONG_TEXTS and texts.question is None
        for text in texts.wrong:
            wrong = read_claims(text)
            assert mark_caption(truth, text).mean < 5, text
            if kind == "invented_object":
                assert [facts(m) for m in wrong.mentions[:1]] == [facts(m) for m in right.mentions]
                assert len(wrong.mentions) == 2 and not truth.count_of(wrong.mentions[1].object_class)
                continue
            differs = {
                each for each in ("count", "colour", "place", "class") if claimed(wrong, each) != claimed(right, each)
            }
            assert differs == {kind}, text
            changed = sum(facts(a)[:4] != facts(b)[:4] for a, b in zip(right.mentions, wrong.mentions, strict=True))
            assert changed + (wrong.scenes != right.scenes) == 1, text
    assert made > 70


@pytest.mark.parametrize("kind", ["count", "place", "invented_object"])
def test_the_text_alone_does_not_reveal_the_fault(kind: str) -> None:
    """Counts in halves and quadrants, and numbers of groups, are those of sampled scenes."""
    possible = Counter((" " in g.place, g.count) for t in map(sample_scene, range(3000)) for g in t.groups)
    for truth in SCENES:
        texts = expert_set(truth, kind, np.random.default_rng((7, truth.seed)))
        for text in texts.wrong if texts else ():
            mentions = read_claims(text).mentions
            assert len(mentions) <= 2
            assert all(possible[" " in str(m.place), m.count] for m in mentions), text


def test_a_made_up_answer_is_worse_than_the_refusal() -> None:
    assert set(MADE_UP_ANSWERS) == set(UNANSWERABLE)
    asked = set()
    for truth in SCENES:
        texts = unanswerable_set([g.object_class for g in truth.groups], np.random.default_rng(truth.seed))
        assert texts.question is not None and len(set(texts.wrong)) == WRONG_TEXTS
        asked.add(texts.question)
        right = mark_answer(truth, texts.question, texts.right)
        assert right.relevance == 5
        assert all(mark_answer(truth, texts.question, wrong).relevance == 1 for wrong in texts.wrong)
    assert len(asked) > 20
