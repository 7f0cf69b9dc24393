"""The rows that an export still has to write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from rsqa_pipeline.images.decode import ImageFault, read_bytes
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import Entry, SourceRow


class Wanted:
    """Keys to export; each is taken once, by the first row that has it."""

    def __init__(self, keys: Collection[str]) -> None:
        self.remaining = set(keys)
        self.taken = 0
        self.left_out: Counter[str] = Counter()
        """Taken rows that could not be written, by reason."""

    def take(self, entry: Entry) -> bool:
        """Whether the entry is to be written; if so, its key is no longer wanted."""
        if not isinstance(entry, SourceRow) or entry.key not in self.remaining:
            return False
        self.remaining.remove(entry.key)
        self.taken += 1
        return True

    def rows(self, source: SourceFile) -> Iterator[SourceRow]:
        """The wanted rows of a source, in its order."""
        for entry in read_source(source):
            if isinstance(entry, SourceRow) and self.take(entry):
                yield entry

    def rows_with_images(self, source: SourceFile) -> Iterator[tuple[SourceRow, bytes]]:
        """The wanted rows with their stored images; a row whose image cannot be read is counted and left out."""
        seen: str | None = None
        found: bytes | ImageFault = b""
        for row in self.rows(source):
            if row.image != seen:  # rows of one image are mostly consecutive
                seen, found = row.image, _read(row.image)
            if isinstance(found, ImageFault):
                self.left_out[found.reason] += 1
            else:
                yield row, found


def _read(reference: str) -> bytes | ImageFault:
    try:
        return read_bytes(reference)
    except ImageFault as fault:
        return fault
