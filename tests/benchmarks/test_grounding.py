"""Reading and grading one box in pixels, with values computed by hand."""

from __future__ import annotations

import pytest

from rsqa_pipeline.benchmarks.grounding import fixed_box_accuracy, is_hit, read_one_box


@pytest.mark.parametrize(
    ("reply", "box"),
    [
        ("[10, 12, 30, 40]", (10.0, 12.0, 30.0, 40.0)),
        ("the ship is at [10.5,12,30,40].", (10.5, 12.0, 30.0, 40.0)),
        ("[10, 12, 30]", None),
        ("[10, 12, 30, 40] and [1, 2, 3, 4]", None),
        ("[30, 12, 10, 40]", None),
        ("10 12 30 40", None),
        ("", None),
        (None, None),
    ],
)
def test_exactly_one_box_is_read(reply: str | None, box: tuple[float, ...] | None) -> None:
    assert read_one_box(reply) == box


def test_half_overlap_is_a_hit_and_less_is_not() -> None:
    reference = [[0.0, 0.0, 10.0, 10.0]]
    assert is_hit("[0, 0, 10, 5]", reference)  # 50 / 100
    assert not is_hit("[0, 0, 10, 4.9]", reference)
    assert not is_hit("[0.0, 0.0, 1.0, 1.0]", reference)  # a box in fractions is read as a small box in pixels
    assert is_hit("[20, 20, 30, 30]", [[0, 0, 10, 10], [20, 20, 30, 30]])


def test_fixed_box_accuracy_by_hand() -> None:
    # medians over the items: [0, 0, 10, 10], which meets the first two (IoU 1 and 0.9) and not the third
    items = [[[0.0, 0.0, 10.0, 10.0]], [[0.0, 0.0, 10.0, 9.0]], [[40.0, 40.0, 50.0, 50.0]]]
    assert fixed_box_accuracy(items) == pytest.approx(2 / 3)
