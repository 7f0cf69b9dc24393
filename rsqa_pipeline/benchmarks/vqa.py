"""Grades short answers: exact match after normalisation, or an exact choice letter (paper, evaluation).

Departure from the released code: there a prediction is right if it is *in* the answer, so an empty prediction is
right. Here an empty or unreadable reply is wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# fmt: off
_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
)
# fmt: on
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
# everything except letters, digits, a point between digits and a minus before a digit
_PUNCTUATION = re.compile(r"(?!(?<=\d)\.(?=\d))(?!(?<!\w)-(?=\d))[^\w]|_")
_WHOLE_NUMBER = re.compile(r"0*(\d+)(?:\.0+)?")


def normalise(answer: str) -> str:
    """Lower case, punctuation as spaces, single spaces, number words up to twenty as digits.

    A point between digits and a minus before a digit are kept, so that 2.5 is not 25 and -3 is not 3. Example:
    ``"Three  Storage-Tanks."`` gives ``"3 storage tanks"``. Text without a letter or digit gives ``""``.
    """
    text = unicodedata.normalize("NFKC", answer).lower()
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)  # 1,200
    text = _PUNCTUATION.sub(" ", text)
    return " ".join(_number(_DIGITS.get(word, word)) for word in text.split())


def is_correct(prediction: str | None, answer: str) -> bool:
    """True if both are equal after `normalise`. A missing or empty prediction is wrong."""
    predicted = normalise(prediction or "")
    return bool(predicted) and predicted == normalise(answer)


def choice_lines(choices: Sequence[str]) -> str:
    """``["river", "beach"]`` as ``"A. river\\nB. beach"``."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def is_letter_correct(prediction: str | None, answer: str) -> bool:
    """True only for the right letter alone: ``B``, ``b``, ``(B)``, ``B.``, but not ``B. river`` or ``river``."""
    predicted = normalise(prediction or "")
    return len(predicted) == 1 and predicted == normalise(answer)


def _number(word: str) -> str:
    whole = _WHOLE_NUMBER.fullmatch(word)
    return whole.group(1) if whole else word
