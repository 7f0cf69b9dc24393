"""The receipt of a deletion request: JSON, and the same as a page. It names ids and never what they stand for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rsqa_pipeline.audit.findings import Finding
from rsqa_pipeline.audit.forgotten import RECEIPTS
from rsqa_pipeline.forgetting.request import Request
from rsqa_pipeline.forgotten import FORGOTTEN, Tombstone, read_tombstones
from rsqa_pipeline.git import commit
from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.versions import folder_version

NOT_REACHED = (
    "the source files themselves, which are read only",
    "earlier versions in DVC's cache and remote (`dvc gc`), in git's history and in MLflow's runs and registry",
    "replies of model servers, kept under the hash of the request in the profile's state folder",
    "pages and files written elsewhere, e.g. by `rsqa explore`, `rsqa curate` or `rsqa evidence`",
)
"""What a request leaves to people."""
_COST = ("seconds", "cpu_seconds", "peak_memory_mib")


@dataclass(frozen=True)
class Outcome:
    """What was done about a request."""

    request: Request
    reason: str
    who: str
    new: list[Tombstone]
    decision: str | None
    """Why it is not rebuilt now; None if it was."""
    rebuilt: list[str]
    """Assets computed."""
    seconds: float
    remaining: list[Finding]
    """Where forgotten items still are."""


def write_receipt(profile: Profile, outcome: Outcome) -> tuple[Path, Path]:
    """Writes ``receipts/forget-<UTC time>.json`` and ``.md``; returns both paths."""
    now = datetime.now(UTC)
    facts = _facts(profile, outcome, now)
    RECEIPTS.mkdir(exist_ok=True)
    path = RECEIPTS / f"forget-{now:%Y%m%d-%H%M%S-%f}.json"
    path.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    page = path.with_suffix(".md")
    page.write_text(_page(outcome, facts), encoding="utf-8")
    return path, page


def _facts(profile: Profile, outcome: Outcome, now: datetime) -> dict[str, Any]:
    request = outcome.request
    return {
        "request": [asdict(named) for named in request.named],
        "profile": profile.name,
        "reason": outcome.reason,
        "who": outcome.who,
        "time": now.isoformat(timespec="seconds"),
        "git_commit": commit(),
        "touched": request.touched,
        "versions_before": request.versions,
        "decision": outcome.decision,
        "rebuilt": _rebuilt(profile, outcome),
        "seconds": round(outcome.seconds, 1),
        "tombstones": {
            "file": str(FORGOTTEN),
            "sha256": hashlib.sha256(FORGOTTEN.read_bytes()).hexdigest(),
            "lines": len(read_tombstones()),
            "new": len(outcome.new),
            "of_request": [asdict(named) for named in request.ids],
        },
        "remaining": [asdict(finding) for finding in outcome.remaining],
        "not_reached": list(NOT_REACHED),
    }


def _rebuilt(profile: Profile, outcome: Outcome) -> list[dict[str, Any]]:
    assets, store = assets_of(profile), manifests(profile)
    rows = []
    for name in outcome.rebuilt:
        version = folder_version(assets[name].folder(profile))
        made = store.find(name, version)
        cost = {key: float(made.run[key]) for key in _COST if made is not None and key in made.run}
        rows.append({"asset": name, "before": outcome.request.versions.get(name), "now": version, **cost})
    return rows


def _page(outcome: Outcome, facts: dict[str, Any]) -> str:
    request, tombstones = outcome.request, facts["tombstones"]
    named = [[part.kind, f"`{part.id}`"] for part in request.named]
    touched = [[what, name, str(rows), f"`{request.versions.get(name, '-')}`"] for what, name, rows in request.counts]
    blocks = [
        "# Receipt of a deletion request",
        f"Reason: {_line(outcome.reason)}. Entered by {_line(outcome.who)} at {facts['time']}, profile "
        f"{facts['profile']}, git commit `{facts['git_commit']}`.",
        _table(["kind", "id"], named),
        "## What it touched",
        _table(["what", "asset", "rows", "version before"], touched) if touched else "No output held it.",
        f"Reports: {', '.join(request.touched['reports']) or 'none'}.",
        "## What was done",
        f"{tombstones['new']} of {tombstones['lines']} lines of `{tombstones['file']}` are new; its sha256 is "
        f"`{tombstones['sha256']}`.",
        *_done(outcome, facts["rebuilt"]),
        "## What still holds it",
        "\n".join(f"- {finding.where}: {finding.detail}" for finding in outcome.remaining)
        or "No output of the profile and nothing kept between runs, as far as rows and hashes show.",
        "Not reached:\n\n" + "\n".join(f"- {place}" for place in NOT_REACHED),
    ]
    return "\n\n".join(blocks) + "\n"


def _done(outcome: Outcome, rebuilt: Sequence[dict[str, Any]]) -> list[str]:
    if outcome.decision is not None:
        stale = ", ".join(outcome.request.touched["rebuild"]) or "none"
        return [f"Decision: {_line(outcome.decision)}. Nothing was rebuilt; stale are: {stale}."]
    rows = [
        [row["asset"], f"`{row['before'] or '-'}`", f"`{row['now']}`", *(str(row.get(key, "-")) for key in _COST)]
        for row in rebuilt
    ]
    words = f"{len(rows)} assets were made again; the request took {outcome.seconds:.0f} s."
    return [words, _table(["asset", "version before", "version now", *_COST], rows)] if rows else [words]


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(_line(cell) for cell in line)} |" for line in lines)


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
