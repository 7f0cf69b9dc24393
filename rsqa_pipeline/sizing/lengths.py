"""How many rows each table has and how long its texts are, estimated from a profile alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rsqa_pipeline.preference_data.captioners import CAPTIONERS_PER_IMAGE
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.profile.preference_data import PairFile
from rsqa_pipeline.profile.types import Section
from rsqa_pipeline.profile.yaml_file import read_yaml


class Lengths(Section):
    side: int
    caption: int
    question: int
    answer: int
    reasoning: int
    image_bytes: int
    pairs_per_question: float


class Assumptions(Section):
    """The content of assumptions.yaml."""

    lengths: dict[str, Lengths]
    template: int
    caption_prompt: int
    used_share: float
    imported_pairs: dict[str, int]


def assumptions() -> Assumptions:
    return Assumptions.model_validate(read_yaml(Path(__file__).with_name("assumptions.yaml")))


@dataclass(frozen=True)
class Counts:
    """Rows of the pipeline's tables."""

    images: int
    """``preference_data.caption_images / source_pairs.preference_share``: these images are that share of all."""
    corpus_captions: int
    corpus_instructions: int
    caption_texts: int
    """Captions per image of the caption pairs."""
    text_pairs: int
    caption_pairs: int
    instruction_pairs: int

    @classmethod
    def of(cls, profile: Profile, found: Assumptions) -> Counts:
        source, preferences = profile.source_pairs, profile.preference_data
        images = preferences.caption_images / source.preference_share
        if source.captions.limit is not None:
            images = min(images, source.captions.limit)
        kept = 1 - source.preference_share
        texts = min(CAPTIONERS_PER_IMAGE, len(preferences.captioners))
        questions = min(preferences.instruction_samples, round(source.instruction_samples * source.preference_share))
        per_question = found.lengths[_kind(profile)].pairs_per_question
        specific = preferences.rs_specific.images if preferences.rs_specific else 0
        imports = preferences.imports
        one_fault = sum((preferences.one_fault_pairs or {}).values())
        return cls(
            images=round(images),
            corpus_captions=round(images * kept),
            corpus_instructions=0 if source.captions_alone else round(source.instruction_samples * kept),
            caption_texts=texts,
            text_pairs=_imported(imports.text, found) if imports.text else preferences.text_pairs,
            caption_pairs=preferences.caption_images * (texts - 1) + one_fault + _imported(imports.caption, found),
            instruction_pairs=round(questions * per_question) + specific + _imported(imports.instruction, found),
        )


def lengths_of(profile: Profile, found: Assumptions) -> Lengths:
    return found.lengths[_kind(profile)]


def _kind(profile: Profile) -> str:
    return "scenes" if profile.source_pairs.captions.format == "scenes" else "files"


def _imported(files: Sequence[PairFile], found: Assumptions) -> int:
    return sum(file.limit or found.imported_pairs[file.format] for file in files)
