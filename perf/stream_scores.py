"""Streams synthetic rows through the shard engine with a trivial scorer: time, rate, peak memory.

    python perf/stream_scores.py --rows 100000
    python perf/stream_scores.py --rows 1000000
    python perf/stream_scores.py --rows 1000000 --csv

Every row has its own text (about 30 words) and the same image. Then the same corpus, grown by 1 %, is scored again, and
only the new rows are computed. With ``--csv`` the rows come from a file through its reader, which may hold more in
memory than the engine does.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from rsqa_pipeline.curated_subsets.scoring.engines import Engine
from rsqa_pipeline.curated_subsets.scoring.score_file import score_file
from rsqa_pipeline.curated_subsets.scoring.shards import ScoreCounts, ScoreRow, score_table
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.profile import SourceFile

SHARD_ROWS = 2000
TEXT = "two white tanks stand beside a long grey road that leads past green fields to the small harbour"
WORDS = TEXT.split()


@dataclass(frozen=True)
class TrivialSpec:
    """Scores a text by its checksum."""

    version: str = "0" * 64
    device: Literal["auto", "cpu", "cuda"] = "cpu"

    def load(self, worker: int) -> TrivialSpec:
        return self

    def score_or_reason(self, groups: Sequence[ScoringGroup]) -> list[list[Score]]:
        return [[Score(zlib.crc32(text.encode()) / 2**32) for text in group.candidates] for group in groups]


def text(number: int) -> str:
    return f"{' '.join(WORDS[(number * 7 + index) % len(WORDS)] for index in range(30))} number {number}"


def rows(count: int, image: str) -> Iterator[ScoreRow]:
    for number in range(count):
        yield ScoreRow(f"row {number}", image, [{"role": "assistant", "content": text(number)}])


def score(count: int, folder: Path, workers: int, through_csv: bool) -> ScoreCounts:
    image, engine = str(folder / "image.png"), Engine("local", workers)
    Image.new("RGB", (64, 64)).save(image)
    if not through_csv:
        return score_table(
            rows(count, image), TrivialSpec(), folder / "out.parquet", "score", SHARD_ROWS, engine, count
        )
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text"])
        writer.writerows(("image.png", text(number)) for number in range(count))
    source = SourceFile(format="csv", path=str(folder / "rows.csv"))
    return score_file(TrivialSpec(), source, folder / "out.parquet", SHARD_ROWS, engine)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--csv", action="store_true")
    arguments = parser.parse_args()
    before = peak_mib()
    print(
        f"{arguments.rows} rows, {arguments.workers} workers of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("from scratch", arguments.rows), ("grown by 1 %", arguments.rows + arguments.rows // 100)):
            started, cpu = time.perf_counter(), time.process_time()
            found = score(count, Path(folder), arguments.workers, arguments.csv)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            assert found.rows == count and not found.quarantined
            print(f"{name}: {seconds:.1f} s ({count / seconds:,.0f} rows/s), {cpu:.1f} s of CPU")
            print(f"  peak memory {peak_mib():.0f} MiB, of which {before:.0f} MiB before the first row")
        print(f"table {(Path(folder) / 'out.parquet').stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
