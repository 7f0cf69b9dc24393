"""Scores one shard of a corpus: every row gets a score or a reason, and the tables are written atomically.

A row is addressed by its content: ``image_hash`` (sha256 of the image's bytes) and ``text_hash`` (sha256 of the
messages' canonical JSON). A row whose address has a score by the same model version in the previous table is not scored
again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import pyarrow as pa

from rsqa_pipeline.curated_subsets.scoring.earlier_scores import EarlierScores, address, earlier_columns, short_version
from rsqa_pipeline.curated_subsets.scoring.scorers import CorpusScorer, ScorerSpec
from rsqa_pipeline.curated_subsets.scoring.sealed_table import write_sealed
from rsqa_pipeline.images.decode import ImageFault, content_hash
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.quarantine import quarantine_row
from rsqa_pipeline.records import QUARANTINE, Message, canonical_messages

FILE_SCORE = pa.schema(
    [
        ("key", pa.string()),  # id of the row: from the reader, or a sample_id
        ("image", pa.string()),  # as the reader resolved it
        ("image_hash", pa.string()),  # sha256 of the image's bytes; missing for a row without an image
        ("text_hash", pa.string()),  # sha256 of the canonical messages JSON
        ("score", pa.float32()),
        ("model_version", pa.string()),  # hash of the scoring model's weights
        ("note", pa.string()),  # what the model did not see in full: text_cut, image_downscaled, or both with a comma
        ("spread", pa.float32()),  # of the score, in its unit; missing unless the score model has bootstrap heads
    ]
)
"""Example: ``{"key": "airport_1.jpg/0", "image": "RSICD_images/airport_1.jpg", "image_hash": "41..",
"text_hash": "07..", "score": 2.31, "model_version": "5be1c0..", "note": None, "spread": None}``. A table that was
scored by other models before also has ``score@<version>`` and ``note@<version>`` of each (see
`earlier_scores.short_version`)."""


class ShardRow(TypedDict):
    """A row to score."""

    key: str
    image: str | None
    image_hash: str | None
    """None if not known yet; it is then computed from the image."""
    text_hash: str
    messages: list[Message]


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of a corpus."""

    name: str
    """Position in the corpus and hash of the content, so that shards with other rows have other names."""
    rows: list[ShardRow]
    refused: list[dict[str, str]]
    """Rows of QUARANTINE that are refused without a model."""

    def __len__(self) -> int:
        return len(self.rows) + len(self.refused)

    def save(self, path: Path) -> None:
        """Writes the shard for a worker on another machine; see `read`."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Shard:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class ScoringJob:
    """What all shards of a run have in common; small and picklable."""

    scorer: ScorerSpec
    asset: str
    """Name of the asset in the quarantine rows."""
    folder: Path
    """Folder of the shards' tables; visible to every worker."""
    earlier: Path | None
    """Index of the previous table, for `EarlierScores`."""

    def scores(self, name: str) -> Path:
        """Path of a shard's rows of FILE_SCORE; written last, so it marks the shard as finished."""
        return self.folder / f"{name}.scores.parquet"

    def quarantine(self, name: str) -> Path:
        return self.folder / f"{name}.quarantine.parquet"

    def schema(self) -> pa.Schema:
        """FILE_SCORE and the kept columns of other models' scores."""
        versions = EarlierScores(self.earlier).versions if self.earlier else []
        kept = [version for version in versions if version != short_version(self.scorer.version)]
        return pa.schema([*FILE_SCORE, *(field for version in kept for field in earlier_columns(version))])


class ShardWorker:
    """Scores shards one after the other. The model is loaded when the first row needs it."""

    def __init__(self, job: ScoringJob, number: int = 0) -> None:
        """
        Args:
            number: number of this worker on its machine; selects its GPU.
        """
        self._job, self._number = job, number
        self._scorer: CorpusScorer | None = None
        self._earlier = EarlierScores(job.earlier) if job.earlier else None
        self._schema = job.schema()

    def __call__(self, shard: Shard) -> int:
        """Writes the shard's tables unless they exist; returns its number of rows."""
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
                refused.append(quarantine_row(self._job.asset, row["key"], result.reason or "", result.detail or ""))
            else:
                columns = {"score": result.value, "model_version": version, "note": result.note}
                columns["spread"] = result.spread
                scored.append({**row, **columns, **_earlier_score_columns(known)})
        write_sealed(self._job.quarantine(shard.name), QUARANTINE, refused)
        write_sealed(self._job.scores(shard.name), self._schema, scored)


def score_rows(rows: Sequence[ShardRow], scorer: CorpusScorer) -> list[Score]:
    """The score of each row's last message, in row order; the last message must be the assistant's.

    Texts of one image and context form one group; a repeated text is scored once.
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
    return [
        found[location[0]][groups[location[0]][1][location[1]]] if location else no_answer for location in locations
    ]


def _find_hashes(rows: Sequence[ShardRow]) -> dict[str, Score]:
    """Fills in each unknown ``image_hash``; returns the faults of images without one, by reference."""
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
    """Columns of all earlier scores; the schema leaves out those of the newest model."""
    columns: dict[str, float | str | None] = {}
    for version, score in known.items():
        score_name, note_name = (field.name for field in earlier_columns(version))
        columns |= {score_name: score.value, note_name: score.note}
    return columns
