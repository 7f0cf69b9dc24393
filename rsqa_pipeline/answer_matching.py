"""Whether two short answers are the same. One rule for preferences, rewards, benchmarks and the small models.

Departure from the released code: there a prediction is right if it is *in* the answer, so an empty prediction is
right. Here an empty or unreadable answer is wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# fmt: off
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
_NUMBERS = {word: number for number, word in enumerate(_UNITS)} | {
    word: 10 * number for number, word in enumerate(_TENS, 2)
}
_ARTICLES = ("a", "an", "the")
# everything except letters, digits, a point between digits and a minus before a digit
_PUNCTUATION = re.compile(r"(?!(?<=\d)\.(?=\d))(?!(?<!\w)-(?=\d))[^\w]|_")
_WHOLE_NUMBER = re.compile(r"0*(\d+)(?:\.0+)?")
_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d]) (?=[^\W\d])")
_WORD = re.compile(r"[^\W\d]{4,}\b")
_YES_NO = ("yes", "no")
_LETTER_AND_TEXT = re.compile(r"\s*\(?([A-Za-z])\)?(?:[.):].*)?\s*", re.DOTALL)


def words_of(answer: str) -> list[str]:
    """Words and numbers in lower case, number words below a hundred as digits, without punctuation.

    A point between digits and a minus before a digit are kept, so that 2.5 is not 25 and -3 is not 3.
    Example: ``"Twenty-one  Storage_Tanks."`` gives ``["21", "storage", "tanks"]``.
    """
    text = unicodedata.normalize("NFKC", answer).lower()
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)  # 1,200
    found: list[str] = []
    tens = False
    for word in _PUNCTUATION.sub(" ", text).split():
        number = _NUMBERS.get(word)
        if tens and number is not None and 0 < number < 10:
            found[-1] = str(int(found[-1]) + number)
        else:
            found.append(word if number is None else str(number))
        tens = word in _TENS
    return [_WHOLE_NUMBER.sub(r"\1", word) if _WHOLE_NUMBER.fullmatch(word) else word for word in found]


def canonical(answer: str) -> str:
    """The form in which equal answers are equal strings: `words_of` without articles, spaces between words and plural.

    Class names are written with a space, hyphen, underscore or nothing between their words, in singular or plural.
    Example: ``"a Dense-Residential area"`` and ``"denseresidential areas"`` give ``"denseresidentialarea"``. Text
    without a letter or digit gives ``""``.
    """
    words = words_of(answer)
    kept = [word for word in words if word not in _ARTICLES] or words
    return _WORD.sub(lambda found: _singular(found[0]), _BETWEEN_WORDS.sub("", " ".join(kept)))


def same_answer(answer: str | None, reference: str) -> bool:
    """True if both are equal in `canonical` form. A missing or empty answer is wrong."""
    given = canonical(answer or "")
    return bool(given) and given == canonical(reference)


def contains_answer(answer: str | None, reference: str) -> bool:
    """`same_answer` whatever the form: the reference's words stand together in the answer, which says nothing else.

    An answer that also states another number, or the opposite of yes or no, is wrong: "two or three" does not contain
    "3".
    """
    if same_answer(answer, reference):
        return True
    given, wanted = _singular_words(answer or ""), _singular_words(reference)
    rivals = {word for word in given if word.isdigit() or word in _YES_NO} if _is_exact(wanted) else set()
    stated = any(given[start : start + len(wanted)] == wanted for start in range(len(given)))
    return bool(wanted) and stated and rivals <= set(wanted)


def same_letter(answer: str | None, reference: str) -> bool:
    """True only for the right choice letter alone: ``B``, ``b``, ``(B)``, ``B.``, but not ``B. river`` or ``river``."""
    given = "".join(words_of(answer or ""))
    return len(given) == 1 and given == reference.strip().lower()


def chooses(answer: str | None, reference: str, choices: Sequence[str]) -> bool:
    """`same_letter` whatever the form: the letter with its text, or the text of the right choice alone."""
    right = choices[ord(reference.strip().upper()) - ord("A")]
    return same_answer(answer, right) or (read_letter(answer or "") or "") == reference.strip().upper()


def read_letter(answer: str) -> str | None:
    """The choice letter at the start of an answer, upper case: ``B``, ``(b)`` and ``B. river`` give ``"B"``."""
    found = _LETTER_AND_TEXT.fullmatch(answer)
    return found[1].upper() if found else None


def _singular_words(answer: str) -> list[str]:
    return _WORD.sub(lambda found: _singular(found[0]), " ".join(words_of(answer))).split()


def _is_exact(words: Sequence[str]) -> bool:
    """A number, yes or no: another one beside it contradicts it."""
    return len(words) == 1 and (words[0].isdigit() or words[0] in _YES_NO)


def _singular(word: str) -> str:
    """A common form of singular and plural, not always a word: "houses" and "house" give "hous"."""
    if word.endswith("ies"):
        return word.removesuffix("ies") + "y"
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word.removesuffix("s")
    return word.removesuffix("e")
