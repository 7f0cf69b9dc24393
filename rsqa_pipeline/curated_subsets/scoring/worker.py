"""One shard of a corpus, scored: every row gets its score or its reason, and the tables appear whole or not at all.

A row is addressed by its content: ``image_hash`` (sha256 of the image's bytes) and ``text_hash`` (sha256 of the
messages' canonical JSON). A row whose address has a score of this very model version in the table made before is not
scored again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.scoring.earlier_scores import EarlierScores, address, earlier_columns, short_version
from rsqa_pipeline.curated_subsets.scoring.scorers import CorpusScorer, ScorerSpec
from rsqa_pipeline.images.decode import ImageFault, content_hash
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.records import QUARANTINE, Message, canonical_messages

FILE_SCORE = pa.schema(
    [
        ("key", pa.string()),  # the row's id: the reader's own, or a sample_id
        ("image", pa.string()),  # as the reader resolved it
        ("image_hash", pa.string()),  # sha256 of the image's bytes; missing for a row without an image
        ("text_hash", pa.string()),  # sha256 of the canonical messages JSON
        ("score", pa.float32()),
        ("model_version", pa.string()),  # hash of the scoring model's weights
        ("note", pa.string()),  # what the model did not see whole: text_cut, image_downscaled, or both with a comma
    ]
)
"""Example: ``{"key": "airport_1.jpg/0", "image": "RSICD_images/airport_1.jpg", "image_hash": "41..",
"text_hash": "07..", "score": 2.31, "model_version": "5be1c0..", "note": None}``. A table that was scored by other
models before also has, of each, ``score@<version>`` and ``note@<version>`` (see `lookups.short`)."""


class ShardRow(TypedDict):
    """What is scored."""

    key: str
    image: str | None
    image_hash: str | None
    """None: not known yet; it is read from the image."""
    text_hash: str
    messages: list[Message]


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of a corpus."""

    name: str
    """Place in the corpus and hash of the content, so that a shard of other rows is another one."""
    rows: list[ShardRow]
    refused: list[dict[str, str]]
    """Rows of QUARANTINE that need no model to be refused."""

    def __len__(self) -> int:
        return len(self.rows) + len(self.refused)

    def save(self, path: Path) -> None:
        """For a worker on another machine; see `read`."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Shard:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class ScoringJob:
    """What all shards of a run have in common; small, and picklable."""

    scorer: ScorerSpec
    stage: str
    """Name in the quarantine's rows."""
    folder: Path
    """Of the shards' tables; every worker sees it."""
    earlier: Path | None
    """`EarlierScores` of the table made before."""

    def scores(self, name: str) -> Path:
        """A shard's rows of FILE_SCORE; written last, so it says that the shard is finished."""
        return self.folder / f"{name}.scores.parquet"

    def quarantine(self, name: str) -> Path:
        return self.folder / f"{name}.quarantine.parquet"

    def schema(self) -> pa.Schema:
        """FILE_SCORE and the columns of other models' scores that are kept."""
        versions = EarlierScores(self.earlier).versions if self.earlier else []
        kept = [version for version in versions if version != short_version(self.scorer.version)]
        return pa.schema([*FILE_SCORE, *(field for version in kept for field in earlier_columns(version))])


class ShardWorker:
    """Scores shards, one after the other. The model is loaded for the first row that needs it."""

    def __init__(self, job: ScoringJob, number: int = 0) -> None:
        """
        Args:
            number: of this worker among those of the machine; picks its GPU.
        """
        self._job, self._number = job, number
        self._scorer: CorpusScorer | None = None
        self._earlier = EarlierScores(job.earlier) if job.earlier else None
        self._schema = job.schema()

    def __call__(self, shard: Shard) -> int:
        """Writes the shard's tables, unless they are there; returns its number of rows."""
        if not self._job.scores(shard.name).is_file():
            self._score(shard)
        return len(shard)

    def _score(self, shard: Shard) -> None:
        version = self._job.scorer.version
        faults = _find_hashes(shard.rows)
        addresses = [address(row["image_hash"], row["text_hash"]) for row in shard.rows]
        earlier = self._earlier.find(addresses) if self._earlier else [{} for _ in addresses]
        found: list[Score | None] = [
            faults.get(row["image"] or "") or known.get(short_version(version))
            for row, known in zip(shard.rows, earlier, strict=True)
        ]
        unscored = [index for index, score in enumerate(found) if score is None]
        if unscored:
            if self._scorer is None:
                self._scorer = self._job.scorer.load(self._number)
            scores = score_rows([shard.rows[index] for index in unscored], self._scorer)
            for index, score in zip(unscored, scores, strict=True):
                found[index] = score
        scored, refused = [], list(shard.refused)
        for row, result, known in zip(shard.rows, found, earlier, strict=True):
            assert result is not None
            if result.value is None:
                fault = {"reason": result.reason or "", "detail": result.detail or ""}
                refused.append({"stage": self._job.stage, "sample_id": row["key"], **fault})
            else:
                columns = {"score": result.value, "model_version": version, "note": result.note}
                scored.append({**row, **columns, **_earlier_score_columns(known)})
        write_atomically(self._job.quarantine(shard.name), QUARANTINE, refused)
        write_atomically(self._job.scores(shard.name), self._schema, scored)


def score_rows(rows: Sequence[ShardRow], scorer: CorpusScorer) -> list[Score]:
    """The score of each row's last message, which the assistant's has to be, in the rows' order.

    Texts of one image and context make one group, and a text that stands there twice is scored once.
    """
    groups: dict[tuple[str | None, str], tuple[ScoringGroup, dict[str, int]]] = {}
    locations: list[tuple[tuple[str | None, str], str] | None] = []
    for row in rows:
        messages = row["messages"]
        if not messages or messages[-1]["role"] != "assistant":
            locations.append(None)
            continue
        context, text = messages[:-1], messages[-1]["content"]
        key = (row["image"], canonical_messages(context))
        _, texts = groups.setdefault(key, (ScoringGroup(row["image"], context, []), {}))
        texts.setdefault(text, len(texts))
        locations.append((key, text))
    unique_groups = [ScoringGroup(group.image, group.context, list(texts)) for group, texts in groups.values()]
    found = dict(zip(groups, scorer.score_or_reason(unique_groups), strict=True))
    no_answer = Score(None, "no_answer", "the last message is not the assistant's")
    return [found[index[0]][groups[index[0]][1][index[1]]] if index else no_answer for index in locations]


def write_atomically(path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a table that appears whole or not at all, also where two processes write the same one."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.scratch")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), scratch)
    scratch.replace(path)


def _find_hashes(rows: Sequence[ShardRow]) -> dict[str, Score]:
    """Fills in each ``image_hash`` not known yet, and returns why an image has none, by its reference."""
    hashes: dict[str, str] = {}
    faults: dict[str, Score] = {}
    for row in rows:
        image = row["image"]
        if image is None or row["image_hash"] is not None:
            continue
        if image not in hashes and image not in faults:
            try:
                hashes[image] = content_hash(image)
            except ImageFault as fault:
                faults[image] = Score(None, fault.reason, fault.detail)
        row["image_hash"] = hashes.get(image)
    return faults


def _earlier_score_columns(known: Mapping[str, Score]) -> dict[str, float | str | None]:
    """Columns of all earlier scores; the schema leaves out the newest model's own."""
    columns: dict[str, float | str | None] = {}
    for version, score in known.items():
        score_name, note_name = (field.name for field in earlier_columns(version))
        columns |= {score_name: score.value, note_name: score.note}
    return columns
