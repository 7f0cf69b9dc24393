"""The model card of the shipped checkpoints, written from their measured accuracies."""

from __future__ import annotations

from rsqa_pipeline.records import Metrics
from rsqa_pipeline.tiny_models.recipe import Schedule
from rsqa_pipeline.tiny_models.scene_accuracy import ASKED_SCENES, PROBE_SCENES, RETRIEVAL_SCENES
from rsqa_pipeline.tiny_models.scene_material import ANSWER_MIX, CAPTION_MIX, CLIP_CAPTION_MIX, UNNAMED_CLASSES

_CHANCE = {
    "probe_scene_class": "1 of 14",
    "probe_object_class": "1 of 10",
    "probe_empty_cell": "",
    "probe_colour": "1 of 6",
    "probe_count": "",
    "answer_presence": "about 1 of 2",
    "answer_count": "about 1 of 5",
    "answer_comparison": "about 1 of 2",
    "answer_rural_urban": "1 of 2",
    "answer_grounding": "about 0",
    "answer_choice": "1 of 4",
    "zero_shot_class": "1 of 14",
    "retrieval_text_r1": f"1 of {RETRIEVAL_SCENES}",
    "retrieval_image_r1": f"1 of {RETRIEVAL_SCENES}",
}


def model_card(metrics: Metrics, schedule: Schedule, scenes: int, hardware: str) -> str:
    """Markdown: what the models are, their training data and their accuracies."""
    lines = [
        "# Tiny models",
        "",
        "A `Qwen2VLForConditionalGeneration` (`vlm/`) and a `CLIPModel` (`clip/`) of 2 million parameters each, for",
        "the demo and the tests. They know the embedded 64 x 64 pixel scenes and nothing else; no number here says",
        "anything about real images. Made by `rsqa pretrain-tiny` (`rsqa_pipeline/tiny_models/recipe.py`).",
        "Weights are stored as float16.",
        "",
        "## Data and training",
        f"- {scenes} scenes of PRETRAIN_SEEDS, which no profile's data use.",
        f"- VLM: vision tower on the scenes' truth, {schedule.vlm_perception_steps} steps of"
        f" {schedule.batch_size} images: the scene's class and,",
        "  cell by cell, the object's class and colour, how many of its kind there are, and where;",
        f"  then the language model alone, {schedule.vlm_steps} steps of {schedule.language_batch_size} images, each",
        "  with a caption, up to four questions, and six texts to match: right, or wrong in one fact drawn at random;",
        f"  and {' and '.join(map(str, schedule.vlm_harder_steps))} steps from half the rate with nine texts to match,"
        " wrong more often in what is still told badly: number and place, then colour and place.",
        f"- CLIP: the same vision phase without numbers and places, {schedule.clip_perception_steps} steps; then"
        f" captions, {schedule.clip_steps} steps of {schedule.batch_size} pairs.",
        f"- Caption writers by share, VLM: {_shares(CAPTION_MIX)}.",
        f"- Caption writers by share, CLIP: {_shares(CLIP_CAPTION_MIX)};"
        f" of {', '.join(UNNAMED_CLASSES)}: layman only, so that it does not know these classes by name.",
        f"- Answer writers by share: {_shares(ANSWER_MIX)}.",
        f"- Seed {schedule.seed}. Hardware: {hardware}. Training time: "
        + ", ".join(f"{kind} {metrics[f'{kind}_training_seconds'] / 60:.0f} minutes" for kind in ("vlm", "clip"))
        + " (the machine was shared with other work).",
        "",
        "The texts are poor on purpose: fine-tuning on good ones has something to add, and data quality shows.",
        "",
        "## Measured on fresh scenes",
        f"Probes on {PROBE_SCENES} scenes (linear heads on the vision tower), answers and captions on {ASKED_SCENES}"
        f" scenes, greedy; retrieval among {RETRIEVAL_SCENES} experts' captions. A box is right at IoU 0.5.",
        "",
        "| model | what | right | chance |",
        "|---|---|---|---|",
    ]
    for name, value in metrics.items():
        kind, _, what = name.partition("_")
        if what in _CHANCE:
            lines.append(f"| {kind} | {what.replace('_', ' ')} | {100 * value:.1f} % | {_CHANCE[what]} |")
    named, mark = metrics["vlm_caption_names_scene_class"], metrics["vlm_caption_true_mark"]
    lines += [
        "",
        f"The VLM's greedy captions name the right scene class in {100 * named:.1f} %; their true mark",
        f"is {mark:.2f} of 5 on average.",
        "",
    ]
    return "\n".join(lines)


def _shares(mix: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in mix.items())
