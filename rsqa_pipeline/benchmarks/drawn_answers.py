"""N sampled answers to each item, with their grades, the scores of every scorer, and the tokens that each one took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from rsqa_pipeline.benchmarks.answers import ask, context_of, mark
from rsqa_pipeline.benchmarks.items import TaskItems
from rsqa_pipeline.benchmarks.reply_format import ReplyFormat
from rsqa_pipeline.benchmarks.selectors import distinct_tokens
from rsqa_pipeline.models.clip_score import ClipScorer, candidate_text
from rsqa_pipeline.models.load import Clip, Vlm
from rsqa_pipeline.models.log_probability import mean_log_probabilities
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.scoring.scorer import Scorer

CANDIDATE = pa.schema(
    [
        ("item_id", pa.string()),
        ("task", pa.string()),
        ("place", pa.int64()),  # 0 is the first answer drawn
        ("reply", pa.string()),
        ("text", pa.string()),  # the answer in the reply; null where it holds none, as a policy's without its tags
        ("correct", pa.float64()),  # in [0, 1]
        ("score_model", pa.float64()),  # or its lower bound, as the profile says; null if the answer has none
        ("clip_score", pa.float64()),
        ("mean_log_probability", pa.float64()),  # of the whole reply under the VLM that gave it, nats per token
        ("tokens", pa.int64()),  # generated
        ("vlm_version", pa.string()),
        ("score_model_version", pa.string()),
        ("clip_version", pa.string()),
    ]
)
"""Example: ``{"item_id": "count-17", "task": "count", "place": 0, "reply": "3", "text": "3", "correct": 1.0,
"score_model": 2.1, "clip_score": 0.23, "mean_log_probability": -0.4, "tokens": 2, "vlm_version": "c01d..",
"score_model_version": "5be1c0..", "clip_version": "77aa01.."}``"""

Rate = Callable[[Sequence[ScoringGroup]], list[list[Score]]]
"""Scores of each group's candidates, with the tokens that the scorer reads of each."""


@dataclass
class Answers:
    """The N answers to one item with their grades and scores (None if missing), all in the same order."""

    item: dict[str, Any]
    task: str
    context: list[Message]
    replies: list[str]
    texts: list[str | None]
    """The answer in each reply; None where there is none: it is wrong, and has no score."""
    correct: list[float]
    """In [0, 1]."""
    right_or_wrong: bool = True
    """False for fractional grades, as of captions."""
    generated: list[int] = field(default_factory=list)
    """Tokens of each reply."""
    scores: dict[str, list[float | None]] = field(default_factory=dict)
    read: dict[str, list[int]] = field(default_factory=dict)
    """Scorer -> tokens that it reads of each answer; image and prompt, which it reads once per item, do not count."""

    def read_tokens(self, selector: str, n: int) -> float:
        """Expected tokens that a selector reads of n answers; equal ones are read once."""
        if selector not in self.read:
            return 0.0
        texts = self.replies if selector == "mean_log_probability" else self.texts
        return distinct_tokens(texts, self.read[selector], n)

    def rows(self, versions: dict[str, str]) -> list[dict[str, Any]]:
        """Rows of `CANDIDATE`."""
        return [
            {
                "item_id": self.item["item_id"],
                "task": self.task,
                "place": index,
                "reply": self.replies[index],
                "text": text,
                "correct": self.correct[index],
                "tokens": self.generated[index],
                **{name: scores[index] for name, scores in self.scores.items()},
                **versions,
            }
            for index, text in enumerate(self.texts)
        ]


def draw_answers(vlm: Vlm, tasks: TaskItems, reply_format: ReplyFormat, settings: Profile) -> list[Answers]:
    """N sampled and graded answers per item, with their mean log-probability; N is the largest of the profile's counts.

    Tokens are those of the reply's text, tokenized again, and of its end. A reply that was cut has no end.
    """
    rules, config = settings.benchmarks.best_of_n, settings.benchmarks
    max_answers = max(rules.counts)
    drawn = []
    for task, items in tqdm(tasks, desc="best of N answers", unit="task"):
        contexts = [context_of(task, item) for item in items]
        prompts = [reply_format.prompt(context) for context in contexts]
        max_tokens = rules.sampling.max_new_tokens * reply_format.length_factor * task.length_factor
        all_replies = ask(
            vlm,
            prompts,
            [item["image"] for item in items],
            max_tokens,
            max(1, config.batch_size // max_answers),
            settings.seed,
            rules.sampling,
            max_answers,
        )
        groups = [
            ScoringGroup(item["image"], prompt, list(dict.fromkeys(replies)))
            for item, prompt, replies in zip(items, prompts, all_replies, strict=True)
        ]
        rated = mean_log_probabilities(vlm, groups, config.batch_size)
        for item, context, replies, group, scores in zip(items, contexts, all_replies, groups, rated, strict=True):
            by_reply = dict(zip(group.candidates, scores, strict=True))
            texts = [reply_format.answer(reply, task, item) for reply in replies]
            answers = Answers(item, task.name, context, replies, texts, [mark(task, item, text) for text in texts])
            answers.right_or_wrong = task.interval == "wilson"
            answers.generated = [min(_tokens(by_reply[reply]), max_tokens) for reply in replies]
            _add(answers, "mean_log_probability", [by_reply[reply] for reply in replies])
            drawn.append(answers)
    return drawn


def add_scores(drawn: Sequence[Answers], name: str, rate: Rate) -> None:
    """Scores each distinct answer once. The answers to one item are scored together, so its image is encoded once."""
    groups = [
        ScoringGroup(a.item["image"], a.context, list(dict.fromkeys(text for text in a.texts if text is not None)))
        for a in drawn
    ]
    for answers, group, scores in zip(drawn, groups, rate(groups), strict=True):
        by_text: dict[str | None, Score] = {None: _NO_ANSWER, **dict(zip(group.candidates, scores, strict=True))}
        _add(answers, name, [by_text[text] for text in answers.texts])


def score_model_rate(scorer: Scorer, bound: bool) -> Rate:
    """Rates by the score, or by its lower bound.

    Raises:
        ModelError: a bound is wanted, and the model has no bootstrap heads.
    """
    if not bound:
        return scorer.score_or_reason
    scorer.lower_bounds([])  # raises here, before any answer is scored

    def lower_bounds(groups: Sequence[ScoringGroup]) -> list[list[Score]]:
        return [
            [replace(score, value=score.lower_bound) for score in found] for found in scorer.score_or_reason(groups)
        ]

    return lower_bounds


def clip_rate(clip: Clip, scorer: ClipScorer) -> Rate:
    """Rates by the cosine; the tokens are those of the embedded text, which holds the question, too."""

    def rate(groups: Sequence[ScoringGroup]) -> list[list[Score]]:
        return [
            [replace(score, tokens=tokens(group, text)) for text, score in zip(group.candidates, scores, strict=True)]
            for group, scores in zip(groups, scorer.score_or_reason(groups), strict=True)
        ]

    def tokens(group: ScoringGroup, text: str) -> int:
        return min(len(clip.tokenizer(candidate_text(group.context, text))["input_ids"]), scorer.context)

    return rate


_NO_ANSWER = Score(None, "no_answer", tokens=0)


def _add(answers: Answers, name: str, scores: Sequence[Score]) -> None:
    answers.scores[name] = [
        None if text is None else score.value for text, score in zip(answers.texts, scores, strict=True)
    ]
    answers.read[name] = [_tokens(score) for score in scores]


def _tokens(score: Score) -> int:
    """A text that could not be read took no tokens."""
    return score.tokens or 0
