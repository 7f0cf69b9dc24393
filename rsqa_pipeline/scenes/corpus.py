"""The demo's data to curate: captions and instruction answers, most of them from flawed writers.

The caption corpus is a committed CSV, like a team's scraped corpus. Scenes are sampled again from its ``scene`` column.
Row: ``17,hasty,"there are two red houses built at the top, in a desert with dunes and bare sand."``
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.questions import ANSWERERS, Question, instruction_questions
from rsqa_pipeline.scenes.truth import sample_scene

DEMO_SCENES = 8700
DEMO_SEED = 7
COLUMNS = ("scene", "source", "caption")

CAPTION_SHARES = {
    "expert": 0.19, "plain": 0.10, "generalist": 0.42, "hasty": 0.05, "guesser": 0.06, "swapper": 0.03,
    "counter": 0.04, "misnamer": 0.02, "adder": 0.02, "recolourer": 0.01, "misplacer": 0.01, "vague": 0.02,
    "incomplete": 0.01, "forgetful": 0.01, "layman": 0.0, "garbler": 0.005, "mismatcher": 0.005,
}  # fmt: skip
"""Share of the caption corpus by captioner. As in practice, a cheap writer that does not know the domain has the
largest share: it is right on everyday terms and wrong on hard ones, so a model trained on everything learns its
confusions."""

ANSWER_SHARES = {
    "reference": 0.33, "generalist": 0.42, "hasty": 0.05, "overcounter": 0.05, "guesser": 0.05, "constant": 0.05,
    "rambler": 0.03, "blank": 0.02,
}  # fmt: skip
"""Share of the instruction corpus by answerer. More answers are right than are kept; flawed ones are sometimes right,
and the generalist's often are."""


CORPUS_ONLY = ("generalist",)
"""Writers of the corpus whose texts no preference compares: the score model has to judge a writer it never met, as on a
team's own corpus."""


@dataclass(frozen=True)
class CaptionRow:
    scene: int
    source: str
    caption: str


@dataclass(frozen=True)
class InstructionRow:
    scene: int
    question: Question
    answer: str
    source: str

    @property
    def task(self) -> str:
        return self.question.task


def demo_captions(scenes: Sequence[int], seed: int) -> list[CaptionRow]:
    """One caption per scene, sources mixed by `CAPTION_SHARES`. Deterministic."""
    sources = _shuffled_sources(CAPTION_SHARES, len(scenes), seed)
    rows = []
    for scene, source in zip(scenes, sources, strict=True):
        rng = np.random.default_rng((seed, scene, 2))
        rows.append(CaptionRow(scene, source, CAPTIONERS[source](sample_scene(scene), rng)))
    return rows


def write_demo_corpus(path: Path, scenes: Sequence[int], seed: int) -> None:
    """Writes the demo's ``captions.csv`` (columns scene, source, caption; UTF-8)."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((row.scene, row.source, row.caption) for row in demo_captions(scenes, seed))


def read_corpus(path: Path) -> list[dict[str, str]]:
    """Rows of a ``captions.csv`` as text; the ingest checks them.

    Raises:
        DataError: a column is missing.
    """
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        found = reader.fieldnames or []
        missing = [column for column in COLUMNS if column not in found]
        if missing:
            raise DataError(f"{path}: needs columns {', '.join(COLUMNS)}; found {', '.join(found) or 'none'}")
        return [{column: row[column] or "" for column in COLUMNS} for row in reader]


def instruction_samples(scenes: Sequence[int], seed: int, per_scene: int = 2) -> list[InstructionRow]:
    """``per_scene`` (1..7) questions of different forms about each scene, answered by sources mixed by `ANSWER_SHARES`.

    Deterministic; sources are independent of tasks.
    """
    sources = _shuffled_sources(ANSWER_SHARES, len(scenes) * per_scene, seed)
    rows: list[InstructionRow] = []
    for scene in scenes:
        truth = sample_scene(scene)
        questions = instruction_questions(truth, np.random.default_rng((seed, scene, 3)))
        for question in questions[:per_scene]:
            source = sources[len(rows)]
            rows.append(InstructionRow(scene, question, ANSWERERS[source](truth, question), source))
    return rows


def _shuffled_sources(shares: dict[str, float], number: int, seed: int) -> list[str]:
    """``number`` source names in random order, each as often as its share, to within one."""
    names = list(shares)
    edges = np.cumsum(list(shares.values())) / sum(shares.values())
    index = np.minimum(np.searchsorted(edges, (np.arange(number) + 0.5) / number), len(names) - 1)
    return [names[i] for i in np.random.default_rng((seed, 4)).permutation(index)]
