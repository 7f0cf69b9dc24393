"""Question-answer samples for fine-tuning: validated, hashed, split by image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.forgotten import Forgotten, read_forgotten
from rsqa_pipeline.profile import Corruption, Profile, SourceFile, SourcePairs
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.source_pairs.class_questions import (
    ClassQuestion,
    class_question_entries,
    corrupt_answer,
)
from rsqa_pipeline.source_pairs.clean import ImageIndex, check_rows
from rsqa_pipeline.source_pairs.duplicates.remove import remove
from rsqa_pipeline.source_pairs.from_scenes import instruction_drafts
from rsqa_pipeline.source_pairs.image_text_pairs import draft_of, habits, with_fault, with_quality
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.sample_tables import Draft, write_samples
from rsqa_pipeline.source_pairs.source_notes import SourceNotes
from rsqa_pipeline.source_pairs.source_row import Entry
from rsqa_pipeline.tracking.run_logger import RunLogger


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes samples.parquet, truth.parquet and quarantine.parquet (and images.tar for scenes). If the profile has
    ``source_pairs.duplicates``, also writes components.parquet and decontamination.parquet.

    At most ``source_pairs.instruction_samples`` rows are used: class questions are spread over images and kinds, rows
    of a file are evenly spaced. Conversations of a file are not changed.

    Raises:
        DataError: the source cannot be used at all, or none of its rows can.
    """
    pairs = settings.source_pairs
    assert pairs.instructions is not None  # otherwise the profile has no such asset
    quarantine, forgotten = Quarantine("instruction_samples"), read_forgotten()
    notes = SourceNotes(str(pairs.instructions.path), "training rows")
    questions: dict[str, ClassQuestion] = {}
    if pairs.instructions.format == "scenes":
        drafts = instruction_drafts(pairs, settings.seed, out, quarantine, forgotten)
    else:
        drafts, questions = _file_drafts(pairs.instructions, pairs, settings.seed, quarantine, notes, forgotten)
    found: Metrics = {}
    if pairs.duplicates is not None:
        drafts, found = remove(drafts, settings, inputs["benchmark_sets"], quarantine, out, by_question=True)
    if pairs.instructions.corruption is not None and questions:
        drafts = corrupt_answers(drafts, questions, pairs.instructions.corruption, settings.seed)
    metrics = write_samples(out, drafts, quarantine) | found | notes.metrics()
    notes.write(out)
    logger.log_metrics(metrics)
    return metrics


def _file_drafts(
    source: SourceFile,
    pairs: SourcePairs,
    seed: int,
    quarantine: Quarantine,
    notes: SourceNotes,
    forgotten: Forgotten,
) -> tuple[list[Draft], dict[str, ClassQuestion]]:
    """Returns the samples, and the questions by sample key if the format is ``class_questions``."""
    entries: Iterable[Entry] = notes.watch(read_source(source))
    questions: dict[str, ClassQuestion] = {}
    if source.format == "class_questions":
        entries, questions = class_question_entries(entries, pairs.instruction_samples, seed)
    elif source.corruption is not None:
        raise DataError(f"source_pairs.instructions.corruption needs format class_questions, found {source.format}")
    else:
        available = list(entries)
        steps = min(pairs.instruction_samples, len(available))
        entries = [available[step * len(available) // steps] for step in range(steps)]
    images = ImageIndex(pairs.max_image_pixels, pairs.max_image_bytes)
    clean = check_rows(entries, images, quarantine, source.boxes, forgotten)
    return [draft_of(row, seed, pairs.preference_share) for row in clean], questions


def corrupt_answers(
    drafts: Sequence[Draft], questions: Mapping[str, ClassQuestion], config: Corruption, seed: int
) -> list[Draft]:
    """Applies the habits of poor answerers to ``config.share`` of the corpus; every change is recorded.

    Args:
        questions: the question of each draft, by the draft's key.
    """
    classes = sorted({draft.scene_class for draft in drafts if draft.scene_class})
    return [_corrupt_draft(draft, questions[draft.key], config, classes, seed) for draft in drafts]


def _corrupt_draft(draft: Draft, question: ClassQuestion, config: Corruption, classes: list[str], seed: int) -> Draft:
    if draft.split == "corpus" and draft.scene_class is not None:
        for kind in habits(config, f"{seed}/{draft.key}"):
            wrong = corrupt_answer(question, kind, draft.scene_class, classes)
            if wrong is not None:
                return with_fault(draft, kind, *wrong)
    return with_quality(draft, None)
