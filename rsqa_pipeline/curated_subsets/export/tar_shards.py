"""Exports rows of any source as WebDataset: tar shards in which each image is followed by its JSON."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from rsqa_pipeline.curated_subsets.export.wanted import Wanted
from rsqa_pipeline.images.decode import TarImages
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.source_pairs.readers.json_row import values_of

SHARD_BYTES = 256 << 20
_ENDINGS = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG": "png",
    b"II": "tif",
    b"MM": "tif",
    b"BM": "bmp",
    b"RIFF": "webp",
    b"GIF8": "gif",
    b"\0\0\0\x0cjP": "jp2",
    b"P": "ppm",
}


def write_webdataset(source: SourceFile, wanted: Wanted, out: Path) -> None:
    """Writes ``shard-000000.tar`` and so on, about SHARD_BYTES each; ``id`` in the JSON is the row's key.

    An image is stored once per row that shows it, as the format requires.
    """
    out.mkdir(parents=True)
    shards, filled = 0, SHARD_BYTES
    with ExitStack() as stack:
        for number, (row, data) in enumerate(wanted.rows_with_images(source)):
            if filled >= SHARD_BYTES:
                stack.close()
                archive = stack.enter_context(TarImages(out / f"shard-{shards:06d}.tar"))
                shards, filled = shards + 1, 0
            values = json.dumps(values_of(row, None)).encode()
            archive.add_bytes(f"{number:09d}.{_ending(data)}", data)
            archive.add_bytes(f"{number:09d}.json", values)
            filled += len(data) + len(values)
    if not shards:
        TarImages(out / "shard-000000.tar").close()


def _ending(data: bytes) -> str:
    """File name extension of an image, by its first bytes."""
    return next((ending for start, ending in _ENDINGS.items() if data.startswith(start)), "jpg")
