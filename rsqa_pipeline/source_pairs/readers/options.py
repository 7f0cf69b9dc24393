"""The profile's settings of a file's shape: names of columns, the delimiter, which questions ask for a caption."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rsqa_pipeline.profile import SourceFile

CAPTION_PROMPTS = frozenset(
    {
        "provide a brief description of the given image",
        "give a short and clear explanation of the subsequent image",
        "summarize the visual content of the image",
        "render a clear and concise summary of the photo",
        "write a terse but informative summary of the picture",
        "share a concise interpretation of the image provided",
        "give a brief description of the image",
        "describe the image concisely",
        "offer a succinct explanation of the picture presented",
        "present a compact description of the photo's key features",
    }
)
"""Questions of LLaVA's pre-training (``blip_laion_cc_sbu_558k``), as `plain_question` returns them. A single answer to
one is a caption."""


def plain_question(question: str) -> str:
    """Lower case, without a full stop."""
    return question.lower().strip().rstrip(" .")


@dataclass(frozen=True)
class ReaderOptions:
    """Example: ``ReaderOptions({"image": "filepath"}, ";")`` for a CSV file with the header ``filepath;text``."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Name in the file by this project's name; other columns have this project's names."""
    delimiter: str = ","
    caption_prompts: frozenset[str] = CAPTION_PROMPTS

    @classmethod
    def of(cls, source: SourceFile) -> ReaderOptions:
        prompts = source.caption_prompts
        return cls(
            {str(name): column for name, column in source.columns.items()},
            source.delimiter or ",",
            CAPTION_PROMPTS if prompts is None else frozenset(map(plain_question, prompts)),
        )

    def column(self, name: str) -> str:
        """The file's name of a column."""
        return self.columns.get(name, name)

    def renamed(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row of the file under this project's names; a renamed column is read nowhere else."""
        if not self.columns:
            return values
        return {**values, **{name: values.get(column) for name, column in self.columns.items()}}


DEFAULT_OPTIONS = ReaderOptions()
