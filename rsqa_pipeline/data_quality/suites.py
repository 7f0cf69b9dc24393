"""Great Expectations suites, one per record type: what holds for every table of that type."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from rsqa_pipeline.images.references import parse_reference
from rsqa_pipeline.source_pairs.reward_items import REWARD_TASKS

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

SHA256 = "^[0-9a-f]{64}$"
VISIBLE = r"\S"
ROLES = "^(?:assistant|(?:system )?(?:user assistant )*user assistant)$"
"""A caption, or alternating turns from user to assistant."""
SPLITS = ["preference", "corpus", "validation", "test"]
SAMPLE_TASKS = [
    "caption", "scene_class", "presence", "count", "comparison", "rural_urban", "open", "grounding", "choice",
]  # fmt: skip
BENCHMARK_TASKS = [
    "classification", "retrieval", "presence", "count", "comparison", "rural_urban", "grounding", "choice",
    "short_answer", "reward_pair", *REWARD_TASKS,
]  # fmt: skip
FAMILIES = ["caption", "close_ended", "open_ended", "rs_specific", "text"]
MAX_SHOWN_VALUES = 3
"""Maximum number of unexpected values shown per fault."""


@dataclass(frozen=True)
class ValidationSummary:
    """What a suite found in a table."""

    success: bool
    faults: list[str]
    """One line per expectation that was not met, with the number of rows and some of their values."""
    expectations: int
    rows: int


def validate(record_type: str, table: Path) -> ValidationSummary:
    """Validates a Parquet table against the suite of its record type (a key of `SUITES`).

    Raises:
        KeyError: unknown record type.
        OSError: the table cannot be read.
    """
    # The import takes 4 to 5 seconds; code that only reads tables should not wait for it.
    import great_expectations as gx

    expectations = SUITES[record_type]()
    frame = _flatten(pq.read_table(table).to_pandas())
    if record_type == "preference_pair":
        frame = frame.assign(**_pair_facts(frame, table.parent))
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    source = context.data_sources.add_pandas(record_type)
    batch_definition = source.add_dataframe_asset(record_type).add_batch_definition_whole_dataframe("all rows")
    batch = batch_definition.get_batch({"dataframe": frame})
    result = batch.validate(gx.ExpectationSuite(name=record_type, expectations=expectations))
    faults = [_fault(check.to_json_dict()) for check in result.results if not check.success]
    return ValidationSummary(bool(result.success), faults, len(result.results), len(frame))


def _flatten(frame: pd.DataFrame) -> pd.DataFrame:
    """Replaces nested columns by text and number columns that expectations can check."""
    flat = frame.copy()
    for column in ("messages", "context"):
        if column in flat:
            flat[f"{column}_text"] = [_shortest_text(turns) for turns in flat[column]]
            flat[f"{column}_roles"] = [" ".join(turn["role"] for turn in turns) for turns in flat[column]]
    for column in ("choices", "boxes", "captions"):
        if column in flat:
            flat[f"{column}_count"] = [None if value is None else len(value) for value in flat[column]]
    if {"chosen", "rejected"} <= set(flat):
        flat["chosen_is_rejected"] = flat["chosen"] == flat["rejected"]
    return flat.drop(columns=[name for name in flat if _is_nested(flat[name])])


def _pair_facts(frame: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Extra columns for a pair's expectations: the image exists, splits per image, marks in order."""
    exists = {image: _image_exists(folder, image) for image in frame["image"].dropna().unique()}
    sides = frame.groupby("image_id")["split"].nunique()
    return {
        "image_is_there": frame["image"].map(exists),
        "sides_of_image": frame["image_id"].map(sides),
        "marks_in_order": [
            None if pd.isna(chosen) or pd.isna(rejected) else bool(chosen > rejected)
            for chosen, rejected in zip(frame["chosen_mark"], frame["rejected_mark"], strict=True)
        ],
    }


def _image_exists(folder: Path, reference: str) -> bool:
    """Whether the file, or the part of the tar archive, that a reference names exists. It is not opened."""
    part = parse_reference(reference)
    path = folder / part.file
    return path.is_file() and (part.start or 0) + (part.size or 0) <= path.stat().st_size


def _is_nested(column: pd.Series) -> bool:
    return any(isinstance(value, np.ndarray | list | dict) for value in column)


def _shortest_text(turns: Any) -> str:
    """The turn with the fewest visible characters; "-" where there are no turns."""
    return min((turn["content"] for turn in turns), key=lambda text: len(text.strip()), default="-")


def _fault(check: dict[str, Any]) -> str:
    config, result = check["expectation_config"], check["result"]
    rule = config["type"].removeprefix("expect_")
    kwargs = {key: value for key, value in config["kwargs"].items() if key != "batch_id"}
    if check["exception_info"].get("raised_exception"):
        return f"{rule} {json.dumps(kwargs)}: {check['exception_info'].get('exception_message')}"
    count, shown = result.get("unexpected_count"), result.get("partial_unexpected_list", [])[:MAX_SHOWN_VALUES]
    found = f"{count} rows, e.g. {shown}" if count is not None else str(result.get("observed_value"))
    return f"{rule} {json.dumps(kwargs)}: {found}"


def _expectations_module() -> Any:
    from great_expectations import expectations as gxe

    return gxe


def _where(column: str, value: str, other: bool = False) -> dict[str, Any]:
    """Restricts an expectation to rows whose column equals the value or, with ``other``, differs from it."""
    from great_expectations.expectations.row_conditions import Column

    return {"row_condition": Column(column) != value if other else Column(column) == value}


def _identity(column: str, unique: bool = True) -> list[Expectation]:
    gxe = _expectations_module()
    checks = [
        gxe.ExpectColumnValuesToNotBeNull(column=column),
        gxe.ExpectColumnValuesToMatchRegex(column=column, regex=SHA256),
    ]
    return [*checks, gxe.ExpectColumnValuesToBeUnique(column=column)] if unique else checks


def _texts(*columns: str) -> list[Expectation]:
    """The columns are not null and contain a visible character."""
    gxe = _expectations_module()
    return [
        check
        for column in columns
        for check in (
            gxe.ExpectColumnValuesToNotBeNull(column=column),
            gxe.ExpectColumnValuesToMatchRegex(column=column, regex=VISIBLE),
        )
    ]


def _image_text_sample() -> list[Expectation]:
    gxe = _expectations_module()
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        *_identity("sample_id"),
        *_identity("image_id", unique=False),
        *_texts("image", "messages_text", "source"),
        gxe.ExpectColumnValuesToMatchRegex(column="messages_roles", regex=ROLES),
        gxe.ExpectColumnValuesToBeInSet(column="task", value_set=SAMPLE_TASKS),
        gxe.ExpectColumnValuesToNotBeNull(column="split"),
        gxe.ExpectColumnValuesToBeInSet(column="split", value_set=SPLITS),
        gxe.ExpectColumnValuesToBeBetween(column="true_quality", min_value=1, max_value=5),
    ]


def _preference_pair() -> list[Expectation]:
    gxe = _expectations_module()
    pictured = _where("family", "text", other=True)
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        *_identity("pair_id"),
        gxe.ExpectColumnValuesToBeInSet(column="family", value_set=FAMILIES),
        gxe.ExpectColumnValuesToNotBeNull(column="family"),
        gxe.ExpectColumnValuesToNotBeNull(column="image_id", **pictured),
        gxe.ExpectColumnValuesToNotBeNull(column="image", **pictured),
        gxe.ExpectColumnValuesToMatchRegex(column="image_id", regex=SHA256),
        *_texts("chosen", "rejected", "chosen_source", "rejected_source", "judge", "context_text"),
        gxe.ExpectColumnValuesToBeInSet(column="chosen_is_rejected", value_set=[False]),
        gxe.ExpectColumnValuesToBeInSet(column="image_is_there", value_set=[True]),
        gxe.ExpectColumnValuesToBeBetween(column="sides_of_image", max_value=1),
        gxe.ExpectColumnValuesToBeInSet(column="marks_in_order", value_set=[True]),
        gxe.ExpectColumnValuesToBeBetween(column="chosen_mark", min_value=1, max_value=5),
        gxe.ExpectColumnValuesToBeBetween(column="rejected_mark", min_value=1, max_value=5),
        gxe.ExpectColumnValuesToNotBeNull(column="split"),
        gxe.ExpectColumnValuesToBeInSet(column="split", value_set=["train", "heldout"]),
    ]


def _scored_sample() -> list[Expectation]:
    gxe = _expectations_module()
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        *_identity("sample_id"),
        gxe.ExpectColumnValuesToNotBeNull(column="score"),
        gxe.ExpectColumnValuesToBeBetween(column="score", min_value=-1e30, max_value=1e30),
        *_texts("model_version"),
    ]


def _subset() -> list[Expectation]:
    gxe = _expectations_module()
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        *_identity("sample_id"),
        gxe.ExpectColumnValuesToNotBeNull(column="kind"),
        gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=["caption", "instruction"]),
    ]


def _benchmark_item() -> list[Expectation]:
    gxe = _expectations_module()
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        *_texts("item_id", "image"),
        gxe.ExpectColumnValuesToBeUnique(column="item_id"),
        *_identity("image_id", unique=False),
        gxe.ExpectColumnValuesToNotBeNull(column="task"),
        gxe.ExpectColumnValuesToBeInSet(column="task", value_set=BENCHMARK_TASKS),
        gxe.ExpectColumnValuesToBeBetween(column="choices_count", min_value=2, max_value=26),
        gxe.ExpectColumnValuesToNotBeNull(column="choices_count", **_where("task", "choice")),
        gxe.ExpectColumnValuesToBeBetween(column="boxes_count", min_value=1),
        gxe.ExpectColumnValuesToNotBeNull(column="boxes_count", **_where("task", "grounding")),
        gxe.ExpectColumnValuesToBeBetween(column="captions_count", min_value=1),
        gxe.ExpectColumnValuesToNotBeNull(column="captions_count", **_where("task", "retrieval")),
        gxe.ExpectColumnValuesToNotBeNull(column="answer", **_where("task", "classification")),
        gxe.ExpectColumnValuesToNotBeNull(column="answer", **_where("task", "presence")),
        gxe.ExpectColumnValuesToNotBeNull(column="question", **_where("task", "presence")),
    ]


def _component() -> list[Expectation]:
    gxe = _expectations_module()
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        *_identity("image_id"),
        *_identity("component", unique=False),
        gxe.ExpectColumnValuesToNotBeNull(column="kept"),
        gxe.ExpectColumnValuesToMatchRegex(column="other_image_id", regex=SHA256),
        gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=["perceptual", "embedding"]),
        gxe.ExpectColumnValuesToBeBetween(column="similarity", min_value=-1, max_value=1),
    ]


def _contamination() -> list[Expectation]:
    gxe = _expectations_module()
    return [
        *_identity("sample_id", unique=False),
        *_texts("benchmark", "item_id"),
        gxe.ExpectColumnValuesToNotBeNull(column="kind"),
        gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=["same_image", "near_image", "shared_text"]),
        gxe.ExpectColumnValuesToNotBeNull(column="similarity"),
        gxe.ExpectColumnValuesToBeBetween(column="similarity", min_value=0, max_value=1),
    ]


def _quarantine() -> list[Expectation]:
    return _texts("asset", "sample_id", "reason", "detail")


SUITES: dict[str, Callable[[], list[Any]]] = {
    "image_text_sample": _image_text_sample,
    "preference_pair": _preference_pair,
    "scored_sample": _scored_sample,
    "subset": _subset,
    "benchmark_item": _benchmark_item,
    "component": _component,
    "contamination": _contamination,
    "quarantine": _quarantine,
}
