"""The documented reasons of missing scores are exactly those that the code produces."""

from __future__ import annotations

import ast
from pathlib import Path

import rsqa_pipeline
from rsqa_pipeline.images.decode import REASONS
from rsqa_pipeline.models.scoring_group import SCORE_REASONS

PACKAGE = Path(rsqa_pipeline.__file__).parent


def reasons_given_to(name: str) -> set[str]:
    """Literal reasons in calls of ``Score(None, reason, ...)`` or ``ImageFault(reason, ...)``, anywhere."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                position = 1 if name == "Score" else 0
                argument = node.args[position] if len(node.args) > position else None
                found |= {
                    part.value
                    for part in (ast.walk(argument) if argument is not None else ())
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                }
    return found


def test_every_documented_reason_is_produced_and_every_produced_one_is_documented():
    assert reasons_given_to("Score") == set(SCORE_REASONS)


def test_reasons_of_images_and_of_scores_have_different_names():
    assert reasons_given_to("ImageFault") <= set(REASONS)
    assert not set(REASONS) & set(SCORE_REASONS)
