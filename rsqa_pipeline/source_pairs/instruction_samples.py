"""Question-answer samples to fine-tune on: validated, hashed, split by image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import Corruption, Profile, SourcePairs
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.source_pairs.class_questions import (
    ClassQuestion,
    class_question_entries,
    corrupt_answer,
)
from rsqa_pipeline.source_pairs.clean import ImageIndex, Quarantine, check_rows
from rsqa_pipeline.source_pairs.duplicates.remove import remove
from rsqa_pipeline.source_pairs.from_scenes import instruction_drafts
from rsqa_pipeline.source_pairs.image_text_pairs import draft_of, habits, with_fault, with_quality
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.sample_tables import Draft, write_samples
from rsqa_pipeline.source_pairs.source_row import Entry
from rsqa_pipeline.tracking.run_logger import RunLogger


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes samples.parquet, truth.parquet and quarantine.parquet (and images.tar for scenes); where the profile looks
    for duplicates, components.parquet and decontamination.parquet too.

    At most ``source_pairs.instruction_samples`` rows are taken: for class questions spread over images and kinds,
    for a file at even steps; a file's conversations stay as they stand.

    Raises:
        DataError: the source as a whole cannot be used, or no row of it.
    """
    pairs = settings.source_pairs
    quarantine = Quarantine("instruction_samples")
    questions: dict[str, ClassQuestion] = {}
    if pairs.instructions.format == "scenes":
        drafts = instruction_drafts(pairs, settings.seed, out, quarantine)
    else:
        drafts, questions = _file_drafts(pairs, settings.seed, quarantine)
    found: Metrics = {}
    if pairs.duplicates is not None:
        drafts, found = remove(drafts, settings, inputs["benchmark_sets"], quarantine, out, by_question=True)
    if pairs.instructions.corruption is not None and questions:
        drafts = corrupt_answers(drafts, questions, pairs.instructions.corruption, settings.seed)
    metrics = write_samples(out, drafts, quarantine) | found
    logger.log_metrics(metrics)
    return metrics


def _file_drafts(pairs: SourcePairs, seed: int, quarantine: Quarantine) -> tuple[list[Draft], dict[str, ClassQuestion]]:
    """The file's samples as they stand, and what each asks by its key, where questions were made here."""
    source = pairs.instructions
    entries: Iterable[Entry] = read_source(source)
    questions: dict[str, ClassQuestion] = {}
    if source.format == "class_questions":
        entries, questions = class_question_entries(entries, pairs.instruction_samples, seed)
    elif source.corruption is not None:
        raise DataError(f"source_pairs.instructions.corruption needs format class_questions, found {source.format}")
    else:
        held = list(entries)
        steps = min(pairs.instruction_samples, len(held))
        entries = [held[step * len(held) // steps] for step in range(steps)]
    clean = check_rows(entries, ImageIndex(pairs.max_image_pixels), quarantine)
    return [draft_of(row, seed, pairs.preference_share) for row in clean], questions


def corrupt_answers(
    drafts: Sequence[Draft], questions: Mapping[str, ClassQuestion], settings: Corruption, seed: int
) -> list[Draft]:
    """Puts the habits of poor answerers into ``settings.share`` of the corpus; every change is recorded.

    Args:
        questions: what each draft asks, by its key.
    """
    classes = sorted({draft.scene_class for draft in drafts if draft.scene_class})
    return [_corrupt_draft(draft, questions[draft.key], settings, classes, seed) for draft in drafts]


def _corrupt_draft(draft: Draft, question: ClassQuestion, settings: Corruption, classes: list[str], seed: int) -> Draft:
    if draft.split == "corpus" and draft.scene_class is not None:
        for kind in habits(settings, f"{seed}/{draft.key}"):
            wrong = corrupt_answer(question, kind, draft.scene_class, classes)
            if wrong is not None:
                return with_fault(draft, kind, *wrong)
    return with_quality(draft, None)
