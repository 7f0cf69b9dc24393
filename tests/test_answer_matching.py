"""Which answers are the same: number words, class names, plurals, choice letters."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsqa_pipeline.answer_matching import (
    canonical,
    chooses,
    contains_answer,
    read_letter,
    same_answer,
    same_letter,
    words_of,
)
from rsqa_pipeline.benchmarks.answers import choice_lines

# fmt: off
CLASS_LISTS = {
    "AID": (
        "airport", "bare land", "baseball field", "beach", "bridge", "center", "church", "commercial",
        "dense residential", "desert", "farmland", "forest", "industrial", "meadow", "medium residential", "mountain",
        "park", "parking", "playground", "pond", "port", "railway station", "resort", "river", "school",
        "sparse residential", "square", "stadium", "storage tanks", "viaduct",
    ),
    "NWPU-RESISC45": (
        "airplane", "airport", "baseball diamond", "basketball court", "beach", "bridge", "chaparral", "church",
        "circular farmland", "cloud", "commercial area", "dense residential", "desert", "forest", "freeway",
        "golf course", "ground track field", "harbor", "industrial area", "intersection", "island", "lake", "meadow",
        "medium residential", "mobile home park", "mountain", "overpass", "palace", "parking lot", "railway",
        "railway station", "rectangular farmland", "river", "roundabout", "runway", "sea ice", "ship", "snowberg",
        "sparse residential", "stadium", "storage tank", "tennis court", "terrace", "thermal power station", "wetland",
    ),
    "UCM": (
        "agricultural", "airplane", "baseball diamond", "beach", "buildings", "chaparral", "dense residential",
        "forest", "freeway", "golf course", "harbor", "intersection", "medium residential", "mobile home park",
        "overpass", "parking lot", "river", "runway", "sparse residential", "storage tanks", "tennis court",
    ),
    "EuroSAT": (
        "annual crop", "forest", "herbaceous vegetation", "highway", "industrial", "pasture", "permanent crop",
        "residential", "river", "sea lake",
    ),
}
# fmt: on


@pytest.mark.parametrize("classes", CLASS_LISTS.values(), ids=CLASS_LISTS)
def test_class_names_are_equal_in_every_spelling_and_to_no_other_class(classes: tuple[str, ...]) -> None:
    for name in classes:
        words = name.split()
        singular = name.removesuffix("s") if name.endswith(("tanks", "buildings")) else name
        plural = singular + ("es" if singular.endswith(("ch", "ss")) else "s")
        spellings = ["".join(words), "-".join(words), "_".join(words), "".join(name.title().split()), f"a {name}."]
        for spelling in [*spellings, singular, plural, name.title()]:
            assert same_answer(spelling, name), spelling
    for one, other in combinations(classes, 2):
        assert not same_answer(one, other), (one, other)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Three  Storage-Tanks.", "3 storage tanks"),
        ("storage_tanks", "storage tanks"),
        ("YES!", "yes"),
        ("03", "3"),
        ("3.0", "3"),
        ("2.5", "2.5"),
        ("1,200", "1200"),
        ("-3", "-3"),
        ("twenty", "20"),
        ("twenty-one ships", "21 ships"),
        ("forty two", "42"),
        ("twenty twelve", "20 12"),
        ("twenty zero", "20 0"),
        ("\uff13", "3"),
        (" ... ", ""),
        ("", ""),
    ],
)
def test_words(text: str, words: str) -> None:
    assert " ".join(words_of(text)) == words


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("houses", "house", True),
        ("buses", "bus", True),
        ("churches", "church", True),
        ("cities", "city", True),
        ("the harbour", "Harbour", True),
        ("3 ships", "three ship", True),
        ("1 2", "12", False),
        ("3 ships", "2 ships", False),
        ("grass", "gras", False),
        ("yes", "ye", False),
        ("rural", "urban", False),
        ("no", "none", False),
        ("a", "an", False),
    ],
)
def test_plurals_articles_and_numbers(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other) is same_answer(other, one) is same


@given(st.text(max_size=30), st.text(max_size=30))
def test_sameness_is_symmetric_and_never_fails(one: str, other: str) -> None:
    assert same_answer(one, one) is bool(canonical(one))
    if canonical(one) and canonical(other):
        assert same_answer(one, other) == same_answer(other, one)


@pytest.mark.parametrize(
    ("text", "letter"),
    [("B", "B"), ("(b)", "B"), ("B. river", "B"), ("b) a\nriver", "B"), ("beach", None), ("B river", None), ("", None)],
)
def test_the_letter_at_the_start_is_read(text: str, letter: str | None) -> None:
    assert read_letter(text) == letter


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("three", "3", True),
        ("3.", "three", True),
        ("Yes", "yes", True),
        ("", "yes", False),
        (None, "yes", False),
        ("...", "...", False),
        ("y", "yes", False),
        ("yes there are", "yes", False),
        ("13", "3", False),
        ("-3", "3", False),
        ("2.5", "25", False),
    ],
)
def test_only_the_whole_answer_is_right(said: str | None, answer: str, right: bool) -> None:
    assert same_answer(said, answer) is right


@pytest.mark.parametrize(
    ("said", "right"),
    [("B", True), ("b", True), ("(B)", True), ("B.", True), ("A", False), ("B. river", False), ("river", False)],
)
def test_only_the_exact_letter_counts(said: str, right: bool) -> None:
    assert same_letter(said, "B") is right


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("yes, there are", "yes", True),
        ("there are three cars.", "3", True),
        ("this is a storage tank site", "storage tanks", True),
        ("2 or 3", "3", False),
        ("yes and no", "yes", False),
        ("no", "yes", False),
        ("13 cars", "3", False),
        ("several", "3", False),
        ("", "3", False),
        ("", "...", False),
        (None, "yes", False),
    ],
)
def test_a_right_answer_in_a_sentence_is_right_in_the_lenient_sense(said: str | None, answer: str, right: bool) -> None:
    assert contains_answer(said, answer) is right


@given(st.text(max_size=12), st.text(max_size=12))
def test_lenient_is_never_stricter(said: str, answer: str) -> None:
    assert contains_answer(said, answer) or not same_answer(said, answer)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("B", True),
        ("B. beach", True),
        ("the beach", True),
        ("B. river", True),
        ("river", False),
        ("A", False),
        ("", False),
    ],
)
def test_a_choice_is_right_by_letter_or_text_in_the_lenient_sense(said: str, right: bool) -> None:
    assert chooses(said, "B", ["river", "beach"]) is right


def test_an_empty_reply_never_matches_a_letter() -> None:
    assert not same_letter("", "")
    assert not same_letter(None, "B")


def test_choices_are_lettered() -> None:
    assert choice_lines(["river", "beach"]) == "A. river\nB. beach"
