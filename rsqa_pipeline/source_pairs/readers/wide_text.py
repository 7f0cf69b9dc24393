"""Names the encoding of a text file with two or four bytes per character, and the command that converts it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path


def wide_encoding(start: bytes) -> str | None:
    """``UTF-16``, ``UTF-32``, or one of these with ``LE`` or ``BE`` if there is no byte order mark, by a file's first
    four bytes; None for UTF-8. The first two characters are taken for ASCII."""
    encoding = json.detect_encoding(start)
    return None if encoding.startswith("utf-8") else encoding.upper().replace("-LE", "LE").replace("-BE", "BE")


def conversion(path: Path, encoding: str) -> str:
    """One sentence for an error: the encoding and the command that makes a UTF-8 file."""
    new = path.with_name(f"{path.stem}.utf-8{path.suffix}")
    return (
        f"it is in {encoding}, not in UTF-8: convert it with "
        f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(new))}"
    )
