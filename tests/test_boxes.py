"""Reading, overlap and grading of boxes in pixels, with values computed by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsqa_pipeline.benchmarks.chance import fixed_box_accuracy
from rsqa_pipeline.boxes import Box, iou, is_hit, read_boxes, read_one_box


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


def test_boxes_are_read_in_one_format_only() -> None:
    assert read_boxes("at [1, 2,3 ,4.5] and [-1,0,5,6]") == [(1, 2, 3, 4.5), (-1, 0, 5, 6)]
    assert read_boxes("[1,2,3] (1,2),(3,4) 1,2,3,4 [[1,2,3") == []


def test_iou_by_hand() -> None:
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0.0
    assert iou((3, 3, 3, 9), (3, 3, 3, 9)) == 0.0
    assert iou((10, 10, 0, 0), (0, 0, 10, 10)) == 0.0


SIDE = st.integers(-50, 200).map(float)
BOX = st.tuples(SIDE, SIDE, SIDE, SIDE)


@given(BOX, BOX)
def test_iou_is_a_symmetric_share(a: Box, b: Box) -> None:
    assert 0.0 <= iou(a, b) == iou(b, a) <= 1.0


@given(BOX)
def test_a_copy_of_a_box_with_area_is_a_hit(box: Box) -> None:
    has_area = box[2] > box[0] and box[3] > box[1]
    assert iou(box, box) == float(has_area)
    assert is_hit(str(list(box)), [box]) is has_area
