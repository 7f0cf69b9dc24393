"""Quarantined records: the only code that makes rows of `records.QUARANTINE`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rsqa_pipeline.records import QUARANTINE, Metrics, write_table


def quarantine_row(asset: str, sample_id: str, reason: str, detail: str) -> dict[str, str]:
    """A row of QUARANTINE. Characters that UTF-8 cannot encode are shown as escapes.

    Args:
        asset: the asset that cannot use the record.
        sample_id: id of the record, or the reader's key if no id could be computed.
        reason: short, for counting, e.g. ``empty_text``.
        detail: what exactly was found.
    """
    return {"asset": asset, "sample_id": printable(sample_id), "reason": reason, "detail": printable(detail)}


@dataclass
class Quarantine:
    """The records that one asset cannot use."""

    asset: str
    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, sample_id: str, reason: str, detail: str) -> None:
        self.rows.append(quarantine_row(self.asset, sample_id, reason, detail))

    def write(self, folder: Path) -> None:
        """Writes ``quarantine.parquet``."""
        write_table(folder / "quarantine.parquet", QUARANTINE, self.rows)

    def metrics(self, kept: int) -> Metrics:
        """``input_rows``, ``kept_rows``, ``quarantined_rows`` and ``quarantined/<reason>``."""
        reasons = Counter(row["reason"] for row in self.rows)
        return {
            "input_rows": float(kept + len(self.rows)),
            "kept_rows": float(kept),
            "quarantined_rows": float(len(self.rows)),
            **{f"quarantined/{reason}": float(count) for reason, count in sorted(reasons.items())},
        }


def printable(text: str) -> str:
    """The text with lone surrogates as backslash escapes, so that it can be written as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
