"""A scored file with hostile texts, and a Chromium to open pages in."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rsqa_pipeline.records import QUARANTINE, write_table

HOSTILE = [
    "<script>window.hacked = 1</script> ships",
    '"><img src=x onerror="window.hacked = 1"> & &lt;b&gt;',
    "\u202egnihtyna \x1b[2J\u0007 control",
    "سفينتان في الميناء",
    "</script><script>window.hacked = 1</script>\u2028 line",
    "=HYPERLINK(0)",
]


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """``scores.parquet``, its quarantine table and the scored ``pairs.jsonl``: 30 rows, two of each of 15 images."""
    generator = np.random.default_rng(0)
    texts = [*HOSTILE, *(f"plain text {number}" for number in range(24))]
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(texts):
        image = tmp_path / f"image_{number // 2}.png"
        if not image.exists() and number // 2 != 14:  # the last image is missing
            Image.fromarray(generator.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(image)
        rows.append({"id": f"r{number}", "image": image.name, "text": text, "source": "odd" if number % 3 else "even"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    scores = {
        "key": [row["id"] for row in rows[:28]],
        "image": [str(tmp_path / row["image"]) for row in rows[:28]],
        "score": pa.array([float(number) for number in range(28)], pa.float32()),
    }
    pq.write_table(pa.table(scores), tmp_path / "scores.parquet")
    lost = {"asset": "score", "reason": "missing_image", "detail": "image_14.png cannot be read"}
    write_table(
        tmp_path / "scores.quarantine.parquet", QUARANTINE, [{**lost, "sample_id": key} for key in ("r28", "r29")]
    )
    return tmp_path / "scores.parquet"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A running Chromium: the one of `install_browser` (``make test``), or the machine's own."""
    from playwright.sync_api import sync_playwright

    own = Path(sys.prefix) / "browser" / "chromium"
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for path in map(shutil.which, names) if path is not None), None)
    environment = dict(os.environ)
    if own.is_file() and (sys.platform, platform.machine()) == ("linux", "x86_64"):
        found = str(own)
        environment |= {"LD_LIBRARY_PATH": str(own.parent / "lib"), "FONTCONFIG_PATH": str(own.parent / "fonts")}
    if found is None:
        pytest.skip(f"no browser: neither {own} (`make test` installs it) nor one of {', '.join(names)}")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=found, env=environment, args=options)
        yield browser
        browser.close()
