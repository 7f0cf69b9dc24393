"""The Markdown page of a retraining: every part, and texts that cannot become markup."""

from __future__ import annotations

from rsqa_pipeline.materialization.staleness import StaleAsset
from rsqa_pipeline.retraining.benchmark_changes import BenchmarkChange
from rsqa_pipeline.retraining.gate import Gate
from rsqa_pipeline.retraining.summary import MAX_METRICS, MetricChange, Retraining, metric_changes, summary_of
from rsqa_pipeline.statistics import Interval

STALE = [StaleAsset("image_text_pairs", ["source changed: data/captions.csv"], 12.4)]
RISE = Interval(0.021, 0.004, 0.038, 812)


def test_a_whole_page() -> None:
    page = summary_of(
        Retraining(
            "demo",
            "a" * 40,
            STALE,
            36,
            computed=["image_text_pairs"],
            gate=Gate("passed", ["better"], RISE, {"caption": RISE}),
            benchmarks=[BenchmarkChange("vlm", "count", "accuracy", 0.51, 0.55, RISE)],
            metrics=[MetricChange("score_model", "loss", 0.5, None)],
            warnings=["score_drift: psi: 0.3"],
            notes=["pushed"],
        )
    )
    lines = page.splitlines()
    assert lines[:3] == [
        "# Retraining of profile demo",
        "",
        "**1 of 36 assets made; the new score model passed the gate.**",
    ]
    assert "| image\\_text\\_pairs | source changed: data/captions.csv | made | 12 s |" in lines
    assert "| all held-out pairs | +0.0210 | \\[+0.0040, +0.0380\\] | 812 |" in lines
    assert "| count (accuracy) | 0.510 | 0.550 | +0.0210 | \\[+0.0040, +0.0380\\] | 812 |" in lines
    assert "  bar [0.550]" in lines and "  line [0.510]" in lines
    assert "| score\\_model | loss | 0.5 | none |" in lines
    assert "- score\\_drift: psi: 0.3" in lines and "- pushed" in lines


def test_what_was_not_reached_is_not_there() -> None:
    failed = summary_of(Retraining("demo", "a" * 40, STALE, 36, failure="captions.csv: ``` no column"))
    assert "**FAILED" in failed and "Score model" not in failed and failed.count("```") == 2
    nothing = summary_of(Retraining("demo", "a" * 40, [], 36))
    assert "**Nothing to retrain: all 36 assets are current.**" in nothing and "##" not in nothing
    dry = summary_of(Retraining("demo", "a" * 40, STALE, 36, dry_run=True))
    assert "**Dry run: 1 of 36 assets would be made.**" in dry and "| stale |" in dry


def test_texts_are_text() -> None:
    hostile = "a|b\n# title <img src=x> [x](y) *z*"
    page = summary_of(Retraining(hostile, "a" * 40, STALE, 1, notes=[hostile]))
    assert "<img" not in page.replace("\\<img", "") and "\n# title" not in page
    assert "a\\|b \\# title \\<img src=x\\> \\[x\\](y) \\*z\\*" in page


def test_many_metrics_are_counted_not_dropped_silently() -> None:
    changes = [MetricChange("score_model", f"m{i}", 0.0, 1.0) for i in range(MAX_METRICS + 7)]
    page = summary_of(Retraining("demo", "a" * 40, STALE, 1, metrics=changes))
    assert f"<summary>{MAX_METRICS + 7} metrics changed</summary>" in page and "7 more are in the files" in page


def test_metric_changes_by_hand() -> None:
    before = {"a": {"x": 1.0, "gone": 2.0}, "old": {"y": 1.0}}
    now = {"a": {"x": 1.0, "new": 3.0}, "b": {"z": 0.5}}
    assert metric_changes(before, now) == [
        MetricChange("a", "new", None, 3.0),
        MetricChange("a", "gone", 2.0, None),
        MetricChange("b", "z", None, 0.5),
        MetricChange("old", "y", 1.0, None),
    ]
