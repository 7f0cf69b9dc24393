"""What was assumed about a source that does not say it, counted and reported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from rsqa_pipeline.records import Metrics
from rsqa_pipeline.source_pairs.source_row import Entry, SourceRow, splits_of_path

NOTES = "notes.json"
"""File beside the asset's tables: the notes as a list of strings. Missing if there are none."""


@dataclass
class SourceNotes:
    """Counts over the rows of one source file."""

    path: str
    rows_are: Literal["training rows", "test rows"]
    """What rows are whose split is not named."""
    rows: int = 0
    rows_without_split: int = 0
    captions_from_prompts: int = 0

    def watch(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yields the entries unchanged and counts them."""
        for entry in entries:
            if isinstance(entry, SourceRow):
                self.rows += 1
                self.rows_without_split += entry.split is None
                self.captions_from_prompts += entry.caption_prompt is not None
            yield entry

    def metrics(self) -> Metrics:
        """``rows_without_split`` and ``captions_from_prompts``, as far as there are any."""
        counts = {
            "rows_without_split": float(self.rows_without_split),
            "captions_from_prompts": float(self.captions_from_prompts),
        }
        return {name: count for name, count in counts.items() if count}

    def lines(self) -> list[str]:
        """One sentence per assumption."""
        notes = []
        if self.rows_without_split:
            none = self.rows_without_split == self.rows
            found = "no row names a split" if none else f"{self.rows_without_split} of {self.rows} rows name no split"
            named = sorted(splits_of_path(PurePath(PurePath(self.path).name)))
            if len(named) > 1:
                found += f", and the name states {' and '.join(named)}, of which none is used"
            notes.append(
                f"{self.path}: {found}; {self.rows_without_split} rows are taken as {self.rows_are} "
                "(a split is read from a column split, the file's name or its folder, if the name states one alone)"
            )
        if self.captions_from_prompts:
            notes.append(
                f"{self.path}: {self.captions_from_prompts} answers to a known prompt for a description are taken as "
                "captions (setting caption_prompts)"
            )
        return notes

    def write(self, folder: Path) -> None:
        """Writes `NOTES` into ``folder`` if there are notes."""
        if lines := self.lines():
            (folder / NOTES).write_text(json.dumps(lines, indent=1), encoding="utf-8")


def read_notes(folder: Path) -> list[str]:
    """The notes of an asset's output; empty if it has none."""
    file = folder / NOTES
    return [str(note) for note in json.loads(file.read_text(encoding="utf-8"))] if file.is_file() else []
