"""Judges: the truth without noise, noise that depends only on the text, failures without marks."""

import random

import numpy as np
import pytest

from rsqa_pipeline.preference_data.candidate import NO_FAULT, Candidate, Subject
from rsqa_pipeline.preference_data.judge import (
    FAULT_MARKS,
    JudgeRequest,
    RecordedCorruptionJudge,
    TruthGraphJudge,
    truth_judge,
)
from rsqa_pipeline.profile import load_profile
from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.marks import mark_answer, mark_caption
from rsqa_pipeline.scenes.truth import sample_scene
from rsqa_pipeline.source_pairs.corruption import TRUE_QUALITY

SCENES = {f"image-{seed}": seed for seed in range(40)}
REQUESTS = [
    JudgeRequest(image, (), CAPTIONERS[name](sample_scene(seed), np.random.default_rng(0)))
    for image, seed in SCENES.items()
    for name in ("expert", "hasty", "vague")
]


def test_without_noise_marks_are_the_truth():
    judgements = TruthGraphJudge(SCENES, 0.0, seed=1).mark(REQUESTS)
    for request, judgement in zip(REQUESTS, judgements, strict=True):
        assert judgement.marks == mark_caption(sample_scene(SCENES[request.image_id]), request.text)
        assert judgement.true_mark == judgement.marks.mean


def test_an_answer_is_marked_as_an_answer():
    question = "how many ships are there?"
    context = ({"role": "user", "content": question},)
    judgement = TruthGraphJudge(SCENES, 0.0, seed=1).mark([JudgeRequest("image-3", context, "17")])[0]
    assert judgement.marks == mark_answer(sample_scene(3), question, "17")


def test_noise_does_not_depend_on_order_or_other_texts():
    judge = TruthGraphJudge(SCENES, 0.7, seed=1)
    shuffled = random.Random(0).sample(REQUESTS, len(REQUESTS))
    whole = dict(zip(shuffled_keys(shuffled), judge.mark(shuffled), strict=True))
    assert whole == {shuffled_keys([request])[0]: judge.mark([request])[0] for request in REQUESTS}


def shuffled_keys(requests: list[JudgeRequest]) -> list[tuple[str, str]]:
    return [(request.image_id, request.text) for request in requests]


def test_noise_has_the_stated_deviation_and_stays_in_range():
    judge = TruthGraphJudge(SCENES, 0.5, seed=1)
    # Marks of 3 are two units from both ends: hardly ever clipped.
    requests = [JudgeRequest("image-0", (), f"number {i}") for i in range(2000)]
    middle = RecordedCorruptionJudge({("image-0", r.text): "count_change" for r in requests}, 0.5, seed=1)
    specificity = [judgement.marks.specificity for judgement in middle.mark(requests)]
    assert np.mean(specificity) == pytest.approx(2.5, abs=0.05)
    assert np.std(specificity) == pytest.approx(0.5, abs=0.05)
    for judgement in judge.mark(REQUESTS):
        assert all(1 <= getattr(judgement.marks, name) <= 5 for name in ("relevance", "clarity", "richness"))


def test_another_seed_is_another_judge():
    marks = [TruthGraphJudge(SCENES, 0.7, seed).mark(REQUESTS[:1])[0].marks for seed in (1, 1, 2)]
    assert marks[0] == marks[1] != marks[2]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [(JudgeRequest("nobody", (), "a ship"), "unknown_scene"), (JudgeRequest("image-1", (), " \n"), "empty_text")],
)
def test_failure_has_a_reason_and_no_marks(request_, reason):
    judgement = TruthGraphJudge(SCENES, 0.5, seed=1).mark([request_])[0]
    assert judgement.marks is None and judgement.true_mark is None
    assert judgement.reason == reason and judgement.detail


def test_mean_marks_of_recorded_faults_equal_the_corpus_quality():
    for kind, quality in TRUE_QUALITY.items():
        assert FAULT_MARKS[kind or NO_FAULT].mean == pytest.approx(quality)


def test_text_without_a_recorded_fault_is_not_marked():
    judge = RecordedCorruptionJudge({("i", "sound"): NO_FAULT, ("i", "dull"): "vague"}, 0.0, seed=1)
    sound, dull, unknown = judge.mark([JudgeRequest("i", (), text) for text in ("sound", "dull", "by a model")])
    assert (sound.true_mark, dull.true_mark) == (5.0, 3.0)
    assert unknown.marks is None and unknown.reason == "unknown_fault"


def test_an_uncorrupted_text_counts_as_such_if_a_corruption_gives_the_same_text():
    subject = Subject("i", "i.png")
    texts = [Candidate(subject, "a port", "human", NO_FAULT), Candidate(subject, "a port", "class_swap", "class_swap")]
    settings = load_profile("demo").preference_data.model_copy(
        update={"judge": "recorded_corruption", "judge_noise": 0}
    )
    for candidates in (texts, texts[::-1]):
        judge = truth_judge(settings, {}, candidates, seed=1)
        assert judge.mark([JudgeRequest("i", (), "a port")])[0].true_mark == 5.0
