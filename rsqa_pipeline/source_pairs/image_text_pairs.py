"""Captions with their images: read, validated, hashed, split by image, and corrupted if the profile asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rsqa_pipeline.forgotten import read_forgotten
from rsqa_pipeline.profile import Corruption, Profile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.source_pairs.clean import CleanRow, ImageIndex, check_rows
from rsqa_pipeline.source_pairs.corruption import TRUE_QUALITY, CaptionPool, CorruptionKind, corrupt
from rsqa_pipeline.source_pairs.duplicates.remove import remove
from rsqa_pipeline.source_pairs.from_scenes import caption_drafts
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.sample_tables import Draft, write_samples
from rsqa_pipeline.source_pairs.source_notes import SourceNotes
from rsqa_pipeline.source_pairs.split import split_of, unit_hash
from rsqa_pipeline.tracking.run_logger import RunLogger


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes samples.parquet, truth.parquet and quarantine.parquet (and images.tar for scenes). If the profile has
    ``source_pairs.duplicates``, also writes components.parquet and decontamination.parquet.

    Raises:
        DataError: the source cannot be used at all, or none of its rows can.
    """
    pairs = settings.source_pairs
    quarantine, forgotten = Quarantine("image_text_pairs"), read_forgotten()
    notes = SourceNotes(str(pairs.captions.path), "training rows")
    if pairs.captions.format == "scenes":
        drafts = caption_drafts(pairs, settings.seed, out, quarantine, forgotten)
    else:
        images = ImageIndex(pairs.max_image_pixels, pairs.max_image_bytes)
        entries = notes.watch(read_source(pairs.captions))
        clean = check_rows(entries, images, quarantine, pairs.captions.boxes, forgotten)
        drafts = [draft_of(row, settings.seed, pairs.preference_share) for row in clean]
    found: Metrics = {}
    if pairs.duplicates is not None:
        drafts, found = remove(drafts, settings, inputs["benchmark_sets"], quarantine, out, by_question=False)
    if pairs.captions.corruption is not None and pairs.captions.format != "scenes":
        # After decontamination: a fault in a text must not hide that a benchmark contains the text.
        drafts = corrupt_captions(drafts, pairs.captions.corruption, settings.seed)
    metrics = write_samples(out, drafts, quarantine) | found | notes.metrics()
    notes.write(out)
    logger.log_metrics(metrics)
    return metrics


def draft_of(clean: CleanRow, seed: int, preference_share: float) -> Draft:
    """Turns a valid row into a sample and assigns its split."""
    row = clean.row
    return Draft(
        key=row.key,
        image_id=clean.image_id,
        image=row.image,
        messages=row.messages,
        task=row.task,
        source=row.source,
        split=split_of(row.split, clean.image_id, seed, preference_share),
        scene_class=row.scene_class,
        georeference=clean.georeference,
    )


def corrupt_captions(drafts: Sequence[Draft], config: Corruption, seed: int) -> list[Draft]:
    """Applies the habits of poor captioners to ``config.share`` of the corpus; every change is recorded.

    Captions for preferences, validation and test stay as people wrote them. Whether and how a caption is changed
    depends on its own key and the seed, so adding, removing or rewording a caption leaves the others as they are.
    """
    pool = CaptionPool.of(vars(draft) for draft in drafts if draft.split == "corpus")
    return [_corrupt_draft(draft, config, pool, seed) for draft in drafts]


def _corrupt_draft(draft: Draft, config: Corruption, pool: CaptionPool, seed: int) -> Draft:
    unchanged = with_quality(draft, None)
    if draft.split != "corpus" or len(draft.messages) != 1:
        return unchanged
    key = f"{seed}/{draft.key}"
    text = draft.messages[0]["content"]
    for kind in habits(config, key):
        changed = corrupt(text, kind, key, draft.image_id, draft.scene_class, pool)
        if changed is not None:
            return with_fault(draft, kind, changed, TRUE_QUALITY[kind])
    return unchanged


def habits(config: Corruption, key: str) -> list[CorruptionKind]:
    """The habits to try on a row, in order; the first that changes its text is used. Empty if the row stays
    unchanged."""
    if unit_hash(key, "corrupted") >= config.share:
        return []
    first = int(unit_hash(key, "habit") * len(config.sources))
    return [*config.sources[first:], *config.sources[:first]]


def with_quality(draft: Draft, kind: CorruptionKind | None) -> Draft:
    return _changed(draft, true_quality=TRUE_QUALITY[kind])


def with_fault(draft: Draft, kind: CorruptionKind, text: str, true_quality: float) -> Draft:
    """Returns the draft with ``text``, by the source ``kind``, as its last turn."""
    last = draft.messages[-1]
    return _changed(
        draft,
        messages=[*draft.messages[:-1], {"role": last["role"], "content": text}],
        source=kind,
        true_quality=true_quality,
        corruption=kind,
        original_text=last["content"],
    )


def _changed(draft: Draft, **values: object) -> Draft:
    return Draft(**{**vars(draft), **values})
