"""What an audit finds, each kind by name."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = {
    "changed_byte": "a file is not the recorded one",
    "replaced_score": "a table of scores has the recorded rows with other scores",
    "reordered_row": "a table has the recorded rows in another order",
    "missing_row": "a table lacks recorded rows",
    "missing_output": "a recorded output is not on disk",
    "edited_settings": "the profile has other settings than those the output was made with",
    "edited_manifest": "a record is not what was written, or is gone",
    "moved_alias": "an alias of the registry does not name the version that it was given to",
    "changed_metric": "a metric in its file or in MLflow is not the recorded one",
    "stale_asset": "an output was made from other code or inputs than those that stand now",
    "wrong_subset": "a subset is not what its rule gives from the scores",
    "data_digest": "a model's run or version in MLflow names other data than the record",
    "dirty_tree": "a run had uncommitted changes in its code or settings",
    "dvc_lock": "dvc.lock names another version than the record",
    "dagster_event": "Dagster's event names another version than the record",
    "missing_run": "a recorded Dagster or MLflow run is not in its database",
    "forgotten_item": "a file holds an image or a sample that is on the list of forgotten ones",
    "lost_tombstone": "the list of forgotten items lacks an id of a receipt, or the receipt cannot be read",
    "missing_evidence": "a file of the evidence package is gone",
    "changed_evidence": "a file of the evidence package is not what was written",
    "added_evidence": "a file of the evidence package was not there",
    "bad_signature": "a signature of the evidence package does not hold",
    "stale_evidence": "the evidence package states another version than the project has",
}


@dataclass(frozen=True, order=True)
class Finding:
    """One contradiction."""

    kind: str
    """A key of KINDS."""
    where: str
    """The asset, or the registered model."""
    detail: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of finding {self.kind!r}")
