"""A scored file with hostile texts."""

from __future__ import annotations

import json
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
