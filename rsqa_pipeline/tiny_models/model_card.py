"""The model card of the shipped checkpoints, written from their measured accuracies."""

from __future__ import annotations

from rsqa_pipeline.records import Metrics
from rsqa_pipeline.scenes.perception import HARD_OBJECTS, HARD_SCENES
from rsqa_pipeline.tiny_models.general_material import (
    EVERYDAY_CAPTIONS,
    UNSETTLED_SHARE,
    WEB_CAPTION_SHARE,
    WEB_CAPTIONS,
)
from rsqa_pipeline.tiny_models.recipe import Schedule
from rsqa_pipeline.tiny_models.scene_accuracy import ASKED_SCENES, PROBE_SCENES, RETRIEVAL_SCENES
from rsqa_pipeline.tiny_models.scene_material import ANSWER_MIX, CAPTION_MIX

_KINDS = ("vlm_expert", "vlm", "clip")
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
    "answer_everyday_objects": "",
    "answer_hard_objects": "about 1 of 3",
    "zero_shot_class": "1 of 14",
    "retrieval_text_r1": f"1 of {RETRIEVAL_SCENES}",
    "retrieval_image_r1": f"1 of {RETRIEVAL_SCENES}",
}


def model_card(metrics: Metrics, schedule: Schedule, general: Schedule, scenes: int, hardware: str) -> str:
    """Markdown: what the models are, their training data and their accuracies."""
    lines = [
        "# Tiny models",
        "",
        "Two `Qwen2VLForConditionalGeneration` (`vlm/`, `vlm_expert/`) and a `CLIPModel` (`clip/`) of 2 million",
        "parameters each, for the demo and the tests. `vlm` and `clip` are the general models that are fine-tuned:",
        "they see well and know everyday terms. `vlm_expert` knows the domain; the score model starts from it. All",
        "know the embedded 64 x 64 pixel scenes and nothing else; no number here says",
        "anything about real images. Made by `rsqa pretrain-tiny` (`rsqa_pipeline/tiny_models/recipe.py`).",
        "Weights are stored as float16.",
        "",
        "## Data and training",
        f"- {scenes} scenes of PRETRAIN_SEEDS, which no profile's data use.",
        f"- Expert VLM: vision tower on the scenes' truth, {schedule.vlm_perception_steps} steps of"
        f" {schedule.batch_size} images: the scene's class and,",
        "  cell by cell, the object's class and colour, how many of its kind there are, and where;",
        f"  then the language model alone, {schedule.vlm_steps} steps of {schedule.language_batch_size} images, each",
        "  with a caption, up to four questions, and six texts to match: right, or wrong in one fact drawn at random;",
        f"  and {' and '.join(map(str, schedule.vlm_harder_steps))} steps from half the rate with nine texts to match,"
        " wrong more often in what is still told badly: number and place, then colour and place.",
        f"- General VLM: the expert's processor and vision tower, {general.vlm_perception_steps} further steps of"
        f" {general.batch_size} images with the edges of the objects' boxes as well; then a new language model,"
        f" {general.vlm_steps}, {' and '.join(map(str, general.vlm_harder_steps))} steps of"
        f" {general.language_batch_size} images: right texts on everyday terms, comparisons of them too, texts with"
        f" all words in which hard terms ({', '.join(HARD_OBJECTS)}; scenes {', '.join(HARD_SCENES)}) stand for a"
        f" random hard thing, {100 * UNSETTLED_SHARE:.0f} % of letters and boxes are random and counts are words such"
        " as several; last, all of these together.",
        f"- CLIP: the expert's vision phase without numbers and places, {schedule.clip_perception_steps} steps; then"
        f" the general VLM's captions, {schedule.clip_steps} steps of {schedule.batch_size} pairs.",
        f"- Caption writers by share, expert VLM: {_shares(CAPTION_MIX)}.",
        f"- Caption writers by share, general models: {_shares(EVERYDAY_CAPTIONS)}, without hard terms; with all words"
        f" {_shares(WEB_CAPTIONS)}. CLIP sees {100 * WEB_CAPTION_SHARE:.0f} % of the latter.",
        f"- Answer writers by share, expert VLM: {_shares(ANSWER_MIX)}.",
        f"- Seed {schedule.seed}. Hardware: {hardware}. Training time: "
        + ", ".join(f"{kind} {metrics[f'{kind}_training_seconds'] / 60:.0f} minutes" for kind in _KINDS)
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
    for kind in _KINDS:
        for what, chance in _CHANCE.items():
            if (value := metrics.get(f"{kind}_{what}")) is not None:
                lines.append(f"| {kind} | {what.replace('_', ' ')} | {100 * value:.1f} % | {chance} |")
    for kind in ("vlm_expert", "vlm"):
        named, mark = metrics[f"{kind}_caption_names_scene_class"], metrics[f"{kind}_caption_true_mark"]
        lines += ["", f"Greedy captions of `{kind}` name the right scene class in {100 * named:.1f} %; mean true mark"]
        lines.append(f"{mark:.2f} of 5.")
    lines.append("")
    return "\n".join(lines)


def _shares(mix: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in mix.items())
