"""The report's training curves: loss and accuracy of every trained model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsqa_pipeline import plots
from rsqa_pipeline.compared import Compared
from rsqa_pipeline.report.blocks import Collapsible, Plot, Plots, from_figure
from rsqa_pipeline.report.reading import read_json

History = list[dict[str, Any]]

PHASES = {
    "score_head": "text pairs",
    "caption_score_model": "caption pairs",
    "score_model": "instruction pairs",
}


def score_model_curves(inputs: Mapping[str, Path]) -> Collapsible:
    """Loss and held-out accuracy of the score model over its phases; a skipped phase has no line."""
    drawings = []
    for column, label in (("loss", "loss"), ("accuracy", "held-out preference accuracy, %")):
        figure, axes = plots.new_figure(5.2, 3.4)
        done = 0
        for asset, phase in PHASES.items():
            history: History = read_json(inputs[asset] / "history.json")
            points = [(done + row["step"], row[column]) for row in history if row.get(column) is not None]
            scale = 100 if column == "accuracy" else 1
            if len(points) > 1:
                axes.plot([step for step, _ in points], [scale * value for _, value in points], label=phase)
            done += max((row["step"] for row in history), default=0)
        axes.set_title(f"Score model, {'loss' if column == 'loss' else 'accuracy'}")
        axes.set_xlabel("optimizer step, phases in sequence")
        axes.set_ylabel(label)
        axes.legend()
        drawings.append(from_figure(figure, f"{column.capitalize()} of the score model over optimizer steps"))
    return Collapsible("Training curves of the score model", [Plots(drawings)])


def finetuning_curves(inputs: Mapping[str, Path], compared: Compared) -> Collapsible:
    """Training loss of CLIP and of the VLM's two phases, one line per subset."""
    drawings = [
        _losses(inputs, compared, "clip", None, "CLIP, captions"),
        _losses(inputs, compared, "vlm", "captions", "VLM, captions"),
        _losses(inputs, compared, "vlm", "instructions", "VLM, instructions"),
    ]
    return Collapsible("Training curves of the fine-tuned models", [Plots(drawings)])


def _losses(inputs: Mapping[str, Path], compared: Compared, family: str, phase: str | None, title: str) -> Plot:
    figure, axes = plots.new_figure(5.2, 3.4)
    for subset in compared.subsets:
        history: History = read_json(inputs[f"{family}_{subset}"] / "history.json")
        points = [
            (row["step"], row["loss"])
            for row in history
            if phase in (None, row.get("phase")) and row.get("loss") is not None
        ]
        steps, losses = [step for step, _ in points], [loss for _, loss in points]
        axes.plot(steps, losses, color=compared.colour(subset), label=compared.label(subset))
    axes.set_title(title)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training loss")
    axes.legend()
    return from_figure(figure, f"Training loss over optimizer steps, {title}, one line per subset")
