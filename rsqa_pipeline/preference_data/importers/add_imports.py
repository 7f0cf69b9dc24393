"""Adds the pairs of the profile's files to an asset's own pairs: checked, assigned to a split, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal

from rsqa_pipeline.forgotten import FAULT, NOTHING, Forgotten
from rsqa_pipeline.images.decode import ImageFault, TarImages, decode_image, hash_image, read_bytes
from rsqa_pipeline.preference_data.build_pairs import Pairs
from rsqa_pipeline.preference_data.candidate import broken_text, pair_split, unusable_text
from rsqa_pipeline.preference_data.importers import rlhf_v, rs_pairs, trl_format, ultrafeedback
from rsqa_pipeline.preference_data.importers.imported_pair import BadRow, Entry, ImportedPair, ImportFault
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.profile.preference_data import PairFile
from rsqa_pipeline.records import Metrics, canonical_messages

IMPORTERS: dict[str, Callable[[PairFile], Iterator[Entry]]] = {
    "rs_pairs": rs_pairs.read,
    "ultrafeedback": ultrafeedback.read,
    "rlhf_v": rlhf_v.read,
    "trl": trl_format.read,
}
Kind = Literal["text", "caption", "instruction"]
_QUESTION_FAMILIES = ("open_ended", "close_ended", "rs_specific")


def add_imports(kind: Kind, out: Path, settings: Profile, pairs: Pairs) -> Metrics:
    """Adds the pairs of ``preference_data.imports.<kind>``; returns the number of pairs per format, readable or not.

    Images given as bytes are stored unchanged in ``images.tar`` in ``out``; images given by name are referenced.
    A pair is in the split of its image, which is the same in every asset (a text pair: the split of its prompt).
    Quarantined: pairs that the importer cannot read, missing or unusable images, empty, overlong or broken texts, equal
    texts, duplicates, and pairs of another kind than requested (``no_image``, ``has_image``, ``no_question``,
    ``has_question``, ``other_family``).

    Raises:
        DataError: a file as a whole cannot be read.
    """
    files: list[PairFile] = getattr(settings.preference_data.imports, kind)
    counts: Counter[str] = Counter()
    with ImportedImages(out / "images.tar", pairs.forgotten) as images:
        for file in files:
            for entry in IMPORTERS[file.format](file):
                counts[file.format] += 1
                try:
                    pairs.add(_pair(entry, kind, file.format, images, settings))
                except BadRow as bad:
                    pairs.quarantine.add(entry.key, bad.reason, bad.detail)
                except ImageFault as fault:
                    pairs.quarantine.add(entry.key, fault.reason, fault.detail)
    return {f"imported_pairs/{name}": float(count) for name, count in sorted(counts.items())}


class ImportedImages:
    """Images of imported pairs. Each is decoded once; those given as bytes are packed into a tar."""

    def __init__(self, path: Path, forgotten: Forgotten = NOTHING) -> None:
        self._path = path
        self._forgotten = forgotten
        self._archive: TarImages | None = None
        self._packed: dict[str, str] = {}
        self._checked: set[str] = set()

    def add(self, image: bytes | str) -> tuple[str, str]:
        """Returns the image's ``image_id`` and reference. Raises ImageFault if it cannot be read or decoded, or is
        forgotten."""
        data = read_bytes(image) if isinstance(image, str) else image
        image_id = hash_image(data)
        if image_id in self._forgotten:
            raise ImageFault(*FAULT)
        if image_id not in self._checked:
            decode_image(data, image if isinstance(image, str) else "an imported image")
            self._checked.add(image_id)
        if isinstance(image, str):
            return image_id, image
        if image_id not in self._packed:
            if self._archive is None:
                self._archive = TarImages(self._path)
            self._packed[image_id] = self._archive.add_bytes(image_id, data)[1]
        return image_id, self._packed[image_id]

    def __enter__(self) -> ImportedImages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._archive is not None:
            self._archive.close()


def _pair(entry: Entry, kind: Kind, source_format: str, images: ImportedImages, settings: Profile) -> dict[str, object]:
    """A row of pairs.parquet without its id. Raises BadRow or ImageFault."""
    if isinstance(entry, ImportFault):
        raise BadRow(entry.reason, entry.detail)
    family = _family(entry, kind)
    questions = [broken_text(turn["content"]) for turn in entry.context]
    for fault in (*questions, unusable_text(entry.chosen), unusable_text(entry.rejected)):
        if fault is not None:
            raise BadRow(*fault)
    image_id, reference = images.add(entry.image) if entry.image is not None else (None, None)
    key = image_id or (canonical_messages(entry.context) if entry.context else entry.chosen)
    return {
        "image_id": image_id,
        "image": reference,
        "family": family,
        "context": list(entry.context),
        "chosen": entry.chosen,
        "rejected": entry.rejected,
        "chosen_source": f"{source_format}:chosen",
        "rejected_source": f"{source_format}:rejected",
        "judge": f"imported:{source_format}",
        "split": pair_split(key, settings.preference_data.heldout_share, settings.seed),
    }


def _family(entry: ImportedPair, kind: Kind) -> str:
    """The pair's family. Raises BadRow if the pair is not of this kind."""
    if kind == "text":
        if entry.image is not None:
            raise BadRow("has_image", "a text pair has no image; name the file in imports.caption or .instruction")
        return "text"
    if entry.image is None:
        raise BadRow("no_image", f"a pair in imports.{kind} needs an image")
    if kind == "caption":
        if entry.context:
            raise BadRow("has_question", "a caption answers no question; name the file in imports.instruction")
        return "caption"
    if not entry.context or entry.context[-1]["role"] != "user":
        raise BadRow("no_question", "needs a question; name the file in imports.caption")
    family = entry.family or "open_ended"
    if family not in _QUESTION_FAMILIES:
        raise BadRow("other_family", f"family {family!r}; known here: {', '.join(_QUESTION_FAMILIES)}")
    return family
