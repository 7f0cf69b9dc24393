"""Pairs of a better and a worse answer: VL-RewardBench and Multimodal RewardBench.

One row of VL-RewardBench (``data.jsonl``; rank 0 is the better answer)::

    {"id": "RLAIF-V-276", "image_path": "images/rlaif-v/RLAIF-V-276.jpg", "query": "what is the team?",
     "response": ["the chunikin.", "the hawks."], "human_ranking": [1, 0], "query_source": "TextVQA"}

One row of Multimodal RewardBench (``all_data.json``, a list)::

    {"ID": "0", "Text": "How many cars are there?", "Image": "images/nocaps/1.jpg", "Output1": "two", "Output2": "five",
     "Better": "Output1"}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsqa_pipeline.source_pairs.evaluation.rows import PairRow, list_of, question_row, text_or_number
from rsqa_pipeline.source_pairs.readers.jsonl import lines
from rsqa_pipeline.source_pairs.readers.unique_keys import decode
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow, key_or, text_of


def read_vl_rewardbench(path: Path, images: Path) -> Iterator[Entry]:
    """Yields one pair per line. Raises DataError if the file cannot be read."""
    for number, line in lines(path):
        try:
            row = decode(line.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError) as error:
            yield RowFault(f"line {number}", "bad_row", f"cannot be read as JSON: {error}")
            continue
        if not isinstance(row, dict):
            yield RowFault(f"line {number}", "bad_row", f"needs an object, found {type(row).__name__}")
            continue
        key, texts, ranks = key_or(row.get("id"), f"line {number}"), row.get("response"), row.get("human_ranking")
        if ranks not in ([0, 1], [1, 0]) or not isinstance(texts, list) or len(texts) != 2:
            yield RowFault(key, "bad_row", f"needs two answers ranked 0 and 1, found human_ranking {ranks!r}")
            continue
        better = texts[ranks.index(0)], texts[ranks.index(1)]
        yield _pair(key, images, text_of(row, "image_path"), text_of(row, "query"), better, path.stem)


def read_multimodal_rewardbench(path: Path, images: Path) -> Iterator[Entry]:
    """Yields one pair per element. Raises DataError if the file cannot be read or is not a list."""
    for found in list_of(path, (), "Multimodal RewardBench's JSON"):
        if isinstance(found, RowFault):
            yield found
            continue
        index, row = found
        key, better = key_or(text_or_number(row, "ID"), f"row {index}"), row.get("Better")
        if better not in ("Output1", "Output2"):
            yield RowFault(key, "bad_row", f"Better must be Output1 or Output2, found {better!r}")
            continue
        texts = row.get(better), row.get("Output2" if better == "Output1" else "Output1")
        yield _pair(key, images, text_of(row, "Image"), text_of(row, "Text"), texts, path.stem)


def _pair(
    key: str, images: Path, image: str | None, question: str | None, texts: tuple[Any, Any], source: str
) -> Entry:
    """The row of a question with its (better, worse) answers."""
    better, worse = (text if isinstance(text, str) and text.strip() else None for text in texts)
    row = question_row(key, images, image, question, better, "reward_pair", source)
    if not isinstance(row, SourceRow):
        return row
    if worse is None:
        return RowFault(key, "not_text", "the worse answer is missing or no text", row.image)
    return PairRow(**vars(row), rejected=worse.strip())
