"""`rsqa plan --size`: what docs/sizing.md shows, and estimates beside the demo's recorded counts."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.cli.plan import profile_without_data, short
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.models.load import load_processor
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.sizing.assets import sizes_of
from rsqa_pipeline.sizing.hardware import card_of
from rsqa_pipeline.sizing.lengths import assumptions
from rsqa_pipeline.sizing.work import Size
from rsqa_pipeline.stages import assets_of


def sizes(profile: Profile, gpu: str = "H100") -> dict[str, Size]:
    return sizes_of(profile, list(assets_of(profile)), card_of(gpu))


@pytest.fixture(scope="module")
def demo() -> dict[str, Size]:
    return sizes(profile_without_data("demo"))


def test_the_documentation_shows_what_the_command_prints() -> None:
    reply = CliRunner().invoke(app, ["plan", "--size", "--profile", "paper"], env={"COLUMNS": "80"})
    assert reply.exit_code == 0, reply.output
    assert max(map(len, reply.output.splitlines())) <= 80
    shown = re.search(r"\$ rsqa plan --size --profile paper\n(.*?)```", Path("docs/sizing.md").read_text(), re.DOTALL)
    assert shown is not None
    assert [line.rstrip() for line in shown[1].splitlines()] == [line.rstrip() for line in reply.output.splitlines()]


@pytest.mark.parametrize(
    ("asset", "metric"),
    [
        ("image_text_pairs", "kept_rows"),
        ("instruction_samples", "kept_rows"),
        ("caption_preferences", "kept_rows"),
        ("instruction_preferences", "kept_rows"),
        ("caption_score_model", "kept_rows"),
        ("score_model", "kept_rows"),
        ("pair_scores", "kept_rows"),
        ("subset_score_model_p30s60", "kept_rows"),
        ("clip_all", "caption_samples"),
        ("clip_random_p30s60", "caption_samples"),
    ],
)
def test_samples_are_those_of_the_recorded_demo(demo: dict[str, Size], asset: str, metric: str) -> None:
    found = json.loads(Path(f"metrics/demo/{asset}.json").read_text())[metric]
    assert demo[asset].samples == pytest.approx(found, rel=0.3)


def test_assumed_captions_are_as_long_as_the_demos() -> None:
    tokenizer = load_processor("rsqa_pipeline/tiny_models/checkpoints/vlm").tokenizer
    with Path("data/demo/corpus/captions.csv").open() as file:
        texts = [row["caption"] for row in csv.DictReader(file)][::50]
    mean = sum(len(tokenizer(text).input_ids) for text in texts) / len(texts)
    assert assumptions().lengths["scenes"].caption == pytest.approx(mean, rel=0.3)


def test_every_asset_that_runs_models_has_a_size() -> None:
    for name in ("demo", "paper"):
        profile = profile_without_data(name)
        found = sizes(profile)
        for asset in assets_of(profile).values():
            if asset.gpu and asset.name != "base_models":
                size = found[asset.name]
                assert min(size.tokens, size.flops, size.memory, size.seconds) > 0, asset.name


def test_a_faster_card_takes_less_time_and_the_same_work() -> None:
    profile = profile_without_data("paper")
    slow, fast = sizes(profile, "A100")["pair_scores"], sizes(profile, "H100")["pair_scores"]
    assert fast.flops == slow.flops and fast.memory == slow.memory
    assert slow.seconds / fast.seconds == pytest.approx(989 / 312)


def test_seeds_and_epochs_multiply_the_work_and_not_the_memory() -> None:
    profile = profile_without_data("demo")
    tuned = profile.finetuned_models
    one = sizes(profile)["vlm_all"]
    three = sizes(profile.model_copy(update={"finetuned_models": tuned.model_copy(update={"seeds": [1, 2, 3]})}))
    assert three["vlm_all"].flops == pytest.approx(3 * one.flops)
    assert three["vlm_all"].disk == pytest.approx(3 * one.disk)
    assert three["vlm_all"].memory == one.memory


def test_an_unknown_card_and_an_unknown_model_are_one_line() -> None:
    with pytest.raises(UsageError, match=r"--gpu 'Abacus' is unknown; known: A100, .*hardware.yaml"):
        card_of("Abacus")
    profile = profile_without_data("paper")
    models = profile.tiny_models.model_copy(update={"vlm": "someone/Some-VLM"})
    with pytest.raises(UsageError, match=r"'someone/Some-VLM' is unknown.*Add it"):
        sizes(profile.model_copy(update={"tiny_models": models}))
    reply = CliRunner().invoke(app, ["plan", "--size", "--limit", "50", "--profile", "demo"])
    assert isinstance(reply.exception, UsageError) and "leave --limit out" in str(reply.exception)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "-"), (7, "7"), (999.6, "1k"), (1_093_000, "1.09M"), (2.5e18, "2.5E"), (3e27, "3e+03Y")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert short(value) == text
