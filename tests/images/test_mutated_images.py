"""A thousand damaged image files: each is an image or a named fault, in bounded time and memory."""

from __future__ import annotations

import io
import random
import resource
import sys
import time

import numpy as np
import pytest
from PIL import Image

from rsqa_pipeline.images.decode import REASONS, ImageFault, decode_image
from tests.images.test_rasters import landscape, raster_bytes

MUTATIONS = 1000
MAX_SECONDS = 10.0


def sound_files() -> list[bytes]:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 4), dtype=np.uint8))
    files = []
    for format_ in ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM"):
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, format_)
        files.append(buffer.getvalue())
    files += [raster_bytes(landscape(count), geo=True, nodata=0) for count in (1, 3, 12)]
    files += [raster_bytes(landscape(3), driver) for driver in ("PNG", "JP2OpenJPEG")]
    files += [raster_bytes(landscape(4, dtype), compress="deflate") for dtype in ("float32", "complex64", "uint8")]
    return files


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, mostly in the header; at times the end cut off or something put between."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 2, 5, 20))):
        at = chance.randrange(min(len(found), chance.choice((64, 400, len(found)))))
        found[at] = chance.choice((0, 255, 127, chance.randrange(256)))
    if chance.random() < 0.2:
        del found[chance.randrange(len(found)) :]
    if chance.random() < 0.1:
        at = chance.randrange(len(found) + 1)
        found[at:at] = chance.randbytes(16)
    return bytes(found)


@pytest.mark.filterwarnings("ignore")
def test_thousand_mutations_are_images_or_named_faults() -> None:
    files, chance, slowest = sound_files(), random.Random(7), 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: dict[str, int] = {}
    for number in range(MUTATIONS):
        data, start = mutated(files[number % len(files)], chance), time.monotonic()
        try:
            outcome = decode_image(data).mode
        except ImageFault as fault:
            outcome = fault.reason
        slowest = max(slowest, time.monotonic() - start)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    print(f"slowest {slowest:.2f} s, peak {peak / 2**20:.0f} MiB above the start, {outcomes}")
    assert set(outcomes) <= {"RGB", *REASONS} and outcomes["RGB"] > 50
    assert slowest < MAX_SECONDS
    assert peak < 2**30
