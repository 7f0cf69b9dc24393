"""Reading, overlap and grading of boxes in pixels, with values computed by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsqa_pipeline.benchmarks.chance import fixed_box_accuracy
from rsqa_pipeline.boxes import (
    Box,
    BoxError,
    Order,
    Unit,
    any_box_hits,
    in_pixels,
    iou,
    is_hit,
    read_boxes,
    read_one_box,
)
from rsqa_pipeline.rl_policy.rewards import iou_reward


@pytest.mark.parametrize(
    ("reply", "box"),
    [
        ("[10, 12, 30, 40]", (10.0, 12.0, 30.0, 40.0)),
        ("the ship is at [10.5,12,30,40].", (10.5, 12.0, 30.0, 40.0)),
        ("[10, 12, 30]", None),
        ("[10, 12, 30, 40] and [1, 2, 3, 4]", None),
        ("[30, 12, 10, 40]", (10.0, 12.0, 30.0, 40.0)),
        ("[10, 12, 10, 40]", None),
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
    two = "[50, 50, 60, 60] or [0, 0, 10, 5]"
    assert any_box_hits(two, reference) and not is_hit(two, reference)
    assert not any_box_hits("no box", reference) and not any_box_hits(None, reference)
    assert not is_hit("[0.0, 0.0, 1.0, 1.0]", reference)  # a box in fractions is read as a small box in pixels
    assert is_hit("[20, 20, 30, 30]", [[0, 0, 10, 10], [20, 20, 30, 30]])


def test_fixed_box_accuracy_by_hand() -> None:
    # medians over the items: [0, 0, 10, 10], which meets the first two (IoU 1 and 0.9) and not the third
    items = [[[0.0, 0.0, 10.0, 10.0]], [[0.0, 0.0, 10.0, 9.0]], [[40.0, 40.0, 50.0, 50.0]]]
    assert fixed_box_accuracy(items) == pytest.approx(2 / 3)


PUBLISHED = [
    ("[25, 30, 50, 60]", (25, 30, 50, 60)),
    ("[50.0,60,25,3e1]", (25, 30, 50, 60)),  # swapped corners
    ("(25,30),(50,60)", (25, 30, 50, 60)),  # Qwen-VL
    ("<ref>ship</ref><box>(25,30),(50,60)</box>", (25, 30, 50, 60)),
    ("<|box_start|>(25,30),(50,60)<|box_end|>", (25, 30, 50, 60)),  # Qwen2-VL
    ("<box>[[25, 30, 50, 60]]</box>", (25, 30, 50, 60)),  # InternVL
    ('```json\n[{"bbox_2d": [25, 30, 50, 60], "label": "ship 2"}]\n```', (25, 30, 50, 60)),  # Qwen2.5-VL
    ("{<25><30><50><60>}", (25, 30, 50, 60)),  # MiniGPT-v2
    ("{<25><30><50><60>|<0>}", (25, 30, 50, 60)),  # GeoChat
    ("{<25><30><50><60>|<90>}", (22.5, 32.5, 52.5, 57.5)),  # 25 x 30 about (37.5, 45), turned
    ("[25, 30, 50, 30, 50, 60, 25, 60]", (25, 30, 50, 60)),  # DOTA
    ("[[25, 30], [50, 30], [40, 60]]", (25, 30, 50, 60)),
]


@pytest.mark.parametrize(("text", "box"), PUBLISHED)
def test_published_forms_of_boxes(text: str, box: Box) -> None:
    assert read_boxes(text) == [pytest.approx(box)]
    assert read_one_box(text) == pytest.approx(box)


@pytest.mark.parametrize(("text", "_box"), PUBLISHED)
def test_a_perfect_copy_earns_the_full_reward(text: str, _box: Box) -> None:
    assert iou_reward([text], [text]) == [1.0]
    assert is_hit(text, read_boxes(text))


def test_several_boxes_are_read_in_order_and_other_numbers_are_no_boxes() -> None:
    assert read_boxes("at [1, 2,3 ,4.5] and [-1,0,5,6]") == [(1, 2, 3, 4.5), (-1, 0, 5, 6)]
    assert read_boxes("(1,2),(3,4) and {<5><6><7><8>}") == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert read_boxes("[1,2,3] (1,2) 1,2,3,4 [[1,2,3 [1,2,3,4,5] {<1><2><3>}") == []


@pytest.mark.parametrize(
    ("text", "unit", "order", "expected"),
    [
        ("[10, 20, 30, 40]", "pixels", "corners", "[10, 20, 30, 40]"),
        ("[10, 20, 30, 40]", "pixels", "xywh", "[10, 20, 40, 60]"),
        ("[0.1, 0.2, 0.5, 1.0]", "fraction", "corners", "[20, 20, 100, 100]"),
        ("at {<50><60><25><30>}.", "0..100", "corners", "at [50, 30, 100, 60]."),
        ("(0,0),(999,999)", "0..999", "corners", "[0, 0, 200, 100]"),
        ("<|box_start|>(250,500),(1000,1000)<|box_end|>", "0..1000", "corners", "[50, 50, 200, 100]"),
        ("{<25><30><50><60>|<90>}", "0..100", "corners", "[60, 20, 90, 70]"),  # 50 x 30 about (75, 45), turned
        ("{<0><0><100><100>|<45>}", "0..100", "corners", "[0, 0, 200, 100]"),  # what lies in the image
        ("[10, 20, 30, 20, 30, 40]", "pixels", "xywh", "[10, 20, 30, 40]"),
        ("no box here, 4 ships", "0..100", "corners", "no box here, 4 ships"),
    ],
)
def test_boxes_in_pixels_of_an_image_of_200_by_100(text: str, unit: Unit, order: Order, expected: str) -> None:
    assert in_pixels(text, (200, 100), unit, order) == expected


@pytest.mark.parametrize(
    ("text", "unit", "needed"),
    [
        ("[10, 20, 201, 40]", "pixels", "outside its image"),
        ("[10, 20, 30, 101]", "pixels", "outside its image"),
        ("[-1, 20, 30, 40]", "pixels", "outside its image"),
        ("[0.1, 0.2, 0.5, 0.6]", "pixels", "is it in fractions"),
        ("[0.1, 0.2, 0.5, 0.6]", "0..100", "is it in fractions"),
        ("[10, 20, 30, 40]", "fraction", "outside its image"),
        ("[10, 20, 30, 400]", "0..100", "outside its image"),
        ("[10, 20, 10, 40]", "pixels", "no area"),
        ("[10, 20, 1e999, 40]", "pixels", "outside its image"),
    ],
)
def test_boxes_in_another_unit_or_outside_their_image_are_refused(text: str, unit: Unit, needed: str) -> None:
    with pytest.raises(BoxError, match=needed):
        in_pixels(text, (200, 100), unit, "corners")


@given(st.lists(st.integers(0, 100), min_size=4, max_size=4), st.sampled_from(["0..100", "pixels"]))
def test_a_box_in_pixels_lies_in_its_image_and_is_read_back_unchanged(corners: list[int], unit: Unit) -> None:
    try:
        text = in_pixels(str(corners), (200, 100), unit, "corners")
    except BoxError:
        assert corners[0] == corners[2] or corners[1] == corners[3]
        return
    ((x0, y0, x1, y1),) = read_boxes(text)
    assert 0 <= x0 < x1 <= 200 and 0 <= y0 < y1 <= 100
    assert in_pixels(text, (200, 100), "pixels", "corners") == text
    assert iou_reward([text], [text]) == [1.0]


def test_iou_by_hand() -> None:
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0.0
    assert iou((3, 3, 3, 9), (3, 3, 3, 9)) == 1.0  # a copy, if without area
    assert iou((3, 3, 3, 9), (0, 0, 9, 9)) == 0.0
    assert iou((10, 10, 0, 0), (0, 0, 10, 10)) == 0.0


SIDE = st.integers(-50, 200).map(float)
BOX = st.tuples(SIDE, SIDE, SIDE, SIDE)


@given(BOX, BOX)
def test_iou_is_a_symmetric_share(a: Box, b: Box) -> None:
    assert 0.0 <= iou(a, b) == iou(b, a) <= 1.0


@given(BOX)
def test_a_copy_of_a_box_is_right(box: Box) -> None:
    assert iou(box, box) == 1.0
    assert iou_reward([str(list(box))], [str(list(box))]) == [1.0]
    assert is_hit(str(list(box)), read_boxes(str(list(box)))) is (box[2] != box[0] and box[3] != box[1])
