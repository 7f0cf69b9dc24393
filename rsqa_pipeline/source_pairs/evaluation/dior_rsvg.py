"""DIOR-RSVG: boxes of described objects, one XML file per image.

The path is the data set's folder: ``Annotations/*.xml``, ``JPEGImages/`` and ``test.txt``, which lists the test objects
by their position among all objects of all files, from 0, files sorted by name. One file::

    <annotation><filename>00001.jpg</filename><object><name>golffield</name>
      <bndbox><xmin>133</xmin><ymin>237</ymin><xmax>684</xmax><ymax>672</ymax></bndbox>
      <description>A large golf field</description></object></annotation>

Boxes are in pixels. The JSON form of other evaluations (``VG_DOIR_RSVG_test.json``) is a list of conversations; it is
read with ``format: llava`` and ``boxes: {unit: pixels}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import parse

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.evaluation.rows import question_row
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def read(path: Path, images: Path) -> Iterator[Entry]:
    """Yields one entry per test object, with ``file/position among all objects`` as key.

    Raises:
        DataError: no annotations, no ``test.txt``, or one with a line that is not a position. Also a file that cannot
            be parsed: the positions of all later objects depend on it.
    """
    files = sorted((path / "Annotations").glob("*.xml"))
    if not files:
        raise DataError(f"{path / 'Annotations'} has no XML files; give the folder of DIOR-RSVG")
    wanted = _positions(path / "test.txt")
    position = 0
    for file in files:
        try:
            root = parse(file).getroot()
        except (OSError, ParseError, DefusedXmlException) as error:
            raise DataError(
                f"{file} cannot be parsed ({error}); test.txt counts objects over all files, so none can be left out"
            ) from error
        for found in root.findall("object"):
            if position in wanted:
                yield _read_object(f"{file.stem}/{position}", root.findtext("filename"), found, images, path.name)
            position += 1
    for missing in sorted(wanted):
        if missing >= position:
            yield RowFault(f"object {missing}", "unknown_image", f"test.txt names it, the files hold {position}")


def _positions(path: Path) -> set[int]:
    try:
        positions = [int(line) for line in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must list the positions of the test objects, one a line: {error}") from error
    if len(set(positions)) < len(positions) or min(positions, default=0) < 0:
        raise DataError(f"{path} must list each position of a test object once, counted from 0")
    return set(positions)


def _read_object(key: str, image: str | None, found: Any, images: Path, source: str) -> Entry:
    sides = [found.findtext(f"bndbox/{side}") for side in _SIDES]
    if None in sides:
        return RowFault(key, "bad_box", f"needs a bndbox with {', '.join(_SIDES)}", str(images / (image or "")))
    return question_row(key, images, image, found.findtext("description"), f"[{', '.join(sides)}]", "grounding", source)
