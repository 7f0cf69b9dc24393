"""Damages bytes, and uses what is damaged within limits of time and memory.

``RSQA_MUTATIONS=1000`` tries as many mutations of each kind of input; the suite tries a few.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rsqa_pipeline.errors import ProfileError, RsqaError

MAX_SECONDS = 10
MAX_BYTES = 2**30
"""Memory above the start."""
TOKENS = (
    b"null", b"[", b"]", b"{", b"}", b'"', b",", b":", b"NaN", b"1e999", b"-1", b"9" * 400, b"\\ud800", b"\xff\xfe",
    b"\0", b"\n", b"\r", b"\xe2\x80\xa8", b"../", b"#0+9", b"<image>", b"*x", b"&x ", b"<<: ", 
    b"!!python/object:os.system ", b"%2e%2e", b"\xef\xbb\xbf", b"'", b";", b"\t", b"[" * 3000, b"\xf0\x9f\x98",
)  # fmt: skip


def mutations(few: int) -> int:
    """How many mutations to try; ``few`` unless ``RSQA_MUTATIONS`` says otherwise."""
    return int(os.environ.get("RSQA_MUTATIONS", few))


def mutate(data: bytes, draw: random.Random) -> bytes:
    """One to four changes: a flipped bit, a piece cut out, repeated, moved or overwritten, the end cut off."""
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(len(data) + 1)
        end = min(len(data), start + draw.choice((1, 2, 8, 40, 600)))
        piece = data[start:end]
        token = draw.choice(TOKENS)
        changed = {
            "flip": bytes(byte ^ (1 << draw.randrange(8)) for byte in piece[:1]) + piece[1:],
            "cut": b"",
            "repeat": piece * draw.choice((2, 50)),
            "insert": token + piece,
            "overwrite": token,
        }
        kind = draw.choice((*changed, "truncate", "swap"))
        if kind == "truncate":
            data = data[:start]
        elif kind == "swap":
            data = data[:start] + data[end:] + piece
        else:
            data = data[:start] + changed[kind] + data[end:]
    return data


@contextmanager
def limits(what: str) -> Iterator[None]:
    """Fails if the block takes more than `MAX_SECONDS`, or raises the process's peak memory by `MAX_BYTES`."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"{what}: more than {MAX_SECONDS} s")

    peak = _peak()
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert _peak() - peak < MAX_BYTES, f"{what}: {(_peak() - peak) / 2**20:.0f} MiB"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def try_use(what: str, use: Callable[[], object]) -> bool:
    """Whether ``use`` ends without an error.

    Fails if it raises anything but the project's own error, of one line; a profile's error has one line per fault.
    """
    try:
        with limits(what):
            use()
    except RsqaError as error:
        assert str(error) and ("\n" not in str(error) or isinstance(error, ProfileError)), f"{what}: {error}"
        return False
    except Exception as error:
        raise AssertionError(f"mutation {what}: {type(error).__name__}: {error}") from error
    return True


def try_mutations(path: Path, name: str, use: Callable[[], object], few: int, known: tuple[int, ...] = ()) -> None:
    """Uses mutations of a file, and those of the numbers ``known``; see `try_use`. The file is restored at the end."""
    original = path.read_bytes()
    for number in (*range(mutations(few)), *known):
        path.write_bytes(mutate(original, random.Random(f"{name} {number}")))
        try_use(f"{name} {number}", use)
    path.write_bytes(original)
    use()
