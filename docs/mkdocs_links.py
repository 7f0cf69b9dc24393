"""A hook of mkdocs: links to files outside of docs/, which are not pages, lead to the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

REPOSITORY = "https://github.com/rsqa-pipeline/rsqa-pipeline/blob/main"
_OUTSIDE = re.compile(r"\]\(\.\./([^)#\s]+)")


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """The page with those links replaced.

    Raises:
        FileNotFoundError: a link leads to no file of the repository.
    """
    root = Path(config.config_file_path).parent

    def replaced(link: re.Match[str]) -> str:
        if not (root / link[1]).exists():
            raise FileNotFoundError(f"a page links to ../{link[1]}, which does not exist")
        return f"]({REPOSITORY}/{link[1]}"

    return _OUTSIDE.sub(replaced, markdown)
