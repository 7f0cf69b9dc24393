"""Prompt selection, the total reward, the held-out comparison, and two real GRPO steps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rsqa_pipeline.errors import DataError, ProfileError
from rsqa_pipeline.finetuned_models.training import TrainingRun
from rsqa_pipeline.models.load import load_vlm, weights_version
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.preference_data.candidate import pair_split
from rsqa_pipeline.profile import Profile, RlPolicy
from rsqa_pipeline.records import Message, read_table
from rsqa_pipeline.rl_policy import train_grpo
from rsqa_pipeline.rl_policy.heldout import HeldoutRewards, compare
from rsqa_pipeline.rl_policy.policy_reward import measure, reward_function
from rsqa_pipeline.rl_policy.prompts import PolicyPrompt, kind_of, select_prompts
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.rl_policy.conftest import HELDOUT_SHARE

OPTIONS: dict[str, Any] = {"policy": "rl_policy", "score_reward": True}


class LengthScorer:
    """Stub scorer: a longer text scores higher, "lost" has no score, "broken" raises."""

    def score(self, groups: Sequence[ScoringGroup]) -> list[list[float | None]]:
        if any("broken" in group.candidates for group in groups):
            raise RuntimeError("the scorer is down")
        return [[None if c == "lost" else float(len(c)) for c in group.candidates] for group in groups]


def prompt(task: str, reference: str, score: float = 3.0, image: str = "i") -> PolicyPrompt:
    return PolicyPrompt("s", image, "i.png", [{"role": "user", "content": "?"}], task, reference, score)


def completion_of(answer: str) -> str:
    return f"<think>so</think><answer>{answer}</answer>"


@pytest.fixture
def config(settings: Profile) -> RlPolicy:
    return settings.rl_policy


def test_total_reward_per_kind(config: RlPolicy) -> None:
    prompts = [prompt("count", "3"), prompt("grounding", "[0,0,10,100]"), prompt("open", "abc"), prompt("open", "abc")]
    measured = measure(
        [completion_of("3"), completion_of("[0,0,10,75]"), completion_of("abcde"), "abcde"],
        prompts,
        LengthScorer(),
        config,
    )
    better = 1 - 2.718281828459045 ** (-0.2 * 2)
    assert measured.format == [1.0, 1.0, 1.0, 0.0]
    assert measured.accuracy == [1.0, 0.7, pytest.approx(better), 0.0]
    assert measured.total == [1.0, pytest.approx(0.79), pytest.approx(0.3 + 0.7 * better), 0.0]


def test_a_missing_score_is_missing_and_a_failed_scorer_raises(config: RlPolicy) -> None:
    measured = measure(
        [completion_of("lost"), completion_of("abcd")], [prompt("open", "abc")] * 2, LengthScorer(), config
    )
    assert measured.total[0] is None and measured.accuracy[0] is None and measured.format[0] == 1.0
    assert measured.total[1] is not None and measured.total[1] > 0.3
    with pytest.raises(RuntimeError, match="scorer is down"):
        measure([completion_of("broken")], [prompt("open", "abc")], LengthScorer(), config)


def test_rules_alone_give_open_answers_only_the_format_reward(config: RlPolicy) -> None:
    prompts = [prompt("open", "abc"), prompt("open", "abc"), prompt("count", "3")]
    measured = measure([completion_of("anything"), "no format", completion_of("3")], prompts, None, config)
    assert measured.total == [pytest.approx(0.3), 0.0, 1.0]
    assert measured.accuracy == [None, 0.0, 1.0]


def test_reward_function_follows_the_trl_contract(config: RlPolicy) -> None:
    logged: dict[str, float] = {}
    reward = reward_function([prompt("count", "3"), prompt("open", "abc")], LengthScorer(), config)
    completions = [[{"role": "assistant", "content": completion_of(answer)}] for answer in ("lost", "3", "4")]
    totals = reward(
        completions=completions, prompt_index=[1, 0, 0], log_metric=logged.__setitem__, prompts=[], images=[]
    )
    assert totals == [None, 1.0, pytest.approx(0.3)]
    assert logged == {"format": 1.0, "accuracy": 0.5}
    assert reward.__name__ == "policy_reward"


def test_prompts_are_half_open_ended_on_images_not_learned_from_and_the_best_of_their_task(
    inputs: dict[str, Path], config: RlPolicy
) -> None:
    rows = read_table(inputs["instruction_samples"] / "samples.parquet")
    for index, row in enumerate(rows):
        if row["task"] == "open":
            row["messages"][-1]["content"] += " and more" * (index % 5)
    rows[0]["split"] = "other"
    rows[2]["messages"][-1]["content"] = "upper left"
    rows[3]["messages"][0]["content"] *= 400
    data = select_prompts(rows, LengthScorer(), config, HELDOUT_SHARE, seed=1)
    assert (len(data.reasoning), len(data.prompts), len(data.heldout)) == (16, 4, 4)
    assert data.dropped == Counter({"no_box": 1, "prompt_too_long": 1})
    for part in (data.prompts, data.heldout):
        assert sum(p.kind == "open_ended" for p in part) == len(part) // 2
    images = [{p.image_id for p in part} for part in (data.reasoning, data.prompts, data.heldout)]
    split_of = {row["image_id"]: row["split"] for row in rows[3:]}
    assert [{split_of[image] for image in of_part} for of_part in images] == [
        {"corpus"},
        {"preference"},
        {"preference"},
    ]
    pairs = [{pair_split(image, HELDOUT_SHARE, 1) for image in of_part} for of_part in images[1:]]
    assert pairs == [{"train"}, {"heldout"}]
    open_scores = {p.reference_score for p in data.reasoning if p.task == "open"}
    everything = [r for r in rows if r["split"] == "corpus" and r["task"] == "open"]
    assert max(open_scores) == max(len(r["messages"][-1]["content"]) for r in everything)
    assert select_prompts(rows, LengthScorer(), config, HELDOUT_SHARE, seed=1) == data
    assert select_prompts(rows, LengthScorer(), config, HELDOUT_SHARE, seed=2) != data


def test_without_open_questions_all_prompts_are_close_ended(inputs: dict[str, Path], config: RlPolicy) -> None:
    rows = [r for r in read_table(inputs["instruction_samples"] / "samples.parquet") if r["task"] == "count"]
    data = select_prompts(rows, LengthScorer(), config, HELDOUT_SHARE, seed=1)
    assert len(data.prompts) == 3 and {p.kind for p in data.prompts} == {"close_ended"}  # half of six
    with pytest.raises(DataError, match="0 usable instruction samples"):
        select_prompts([], LengthScorer(), config, HELDOUT_SHARE, seed=1)


def test_a_small_pool_gives_fewer_prompts_not_worse_references(inputs: dict[str, Path], config: RlPolicy) -> None:
    """The worse half of a ranking is never used: its references are often wrong."""
    rows = [row for row in read_table(inputs["instruction_samples"] / "samples.parquet") if row["task"] != "open"]
    for index, row in enumerate(rows):
        row["messages"][-1]["content"] += " x" * (index % 7) if row["task"] != "grounding" else ""
    many = config.model_copy(update={"heldout_prompts": len(rows)})
    heldout = select_prompts(rows, LengthScorer(), many, HELDOUT_SHARE, seed=1).heldout
    pool = [
        row
        for row in rows
        if row["split"] == "preference" and pair_split(row["image_id"], HELDOUT_SHARE, 1) == "heldout"
    ]
    assert len(heldout) == -(-len(pool) // 2) < many.heldout_prompts
    for task in {prompt.task for prompt in heldout}:
        lengths = sorted((len(row["messages"][-1]["content"]) for row in pool if row["task"] == task), reverse=True)
        kept = sorted((prompt.reference_score for prompt in heldout if prompt.task == task), reverse=True)
        assert kept == lengths[: len(kept)] and len(kept) <= len(lengths) // 2 + 1


def test_kind_of_each_task() -> None:
    tasks = ("scene_class", "presence", "count", "comparison", "rural_urban", "open", "grounding")
    assert [kind_of(t) for t in tasks] == ["close_ended"] * 5 + ["open_ended", "grounding"]


def test_comparison_is_paired_and_excludes_missing_prompts() -> None:
    prompts = [prompt("count", "3", image=f"image {number}") for number in range(4)]
    before = HeldoutRewards([0.0, 0.5, None, 0.1], [1.0] * 4, [0.0, 0.2, None, 0.4])
    after = HeldoutRewards([0.5, 1.0, 0.9, 0.6], [1.0] * 4, [0.5, 0.7, 0.1, 0.9])
    report = compare(before, after, prompts, seed=0)
    assert report["before"]["n"] == report["difference"]["n"] == 3
    assert report["before"]["value"] == pytest.approx(0.2)
    assert report["difference"]["value"] == pytest.approx(0.5)
    # every prompt gains 0.5: the paired interval has zero width, the separate intervals do not
    assert report["difference"]["low"] == pytest.approx(report["difference"]["high"])
    assert report["after"]["high"] > report["after"]["low"]
    assert report["difference"]["accuracy"]["value"] == pytest.approx(0.5)
    with pytest.raises(DataError, match=r"no held-out prompt has the part .accuracy"):
        compare(before, HeldoutRewards([1.0] * 4, [1.0] * 4, [None] * 4), prompts, seed=0)


def test_comparison_of_each_kind_alone() -> None:
    prompts = [prompt("count", "3"), prompt("open", "abc"), prompt("open", "abc"), prompt("grounding", "{<1>}")]
    before = HeldoutRewards([0.0, 0.5, 0.5, 0.2], [1.0] * 4, [0.0, None, None, 0.4])
    after = HeldoutRewards([0.5, 0.4, 0.2, 0.2], [1.0] * 4, [0.5, None, 0.1, 0.4])
    kinds = compare(before, after, prompts, seed=0)["kinds"]
    assert {kind: of_kind["difference"]["value"] for kind, of_kind in kinds.items()} == pytest.approx(
        {"close_ended": 0.5, "open_ended": -0.2, "grounding": 0.0}
    )
    assert kinds["open_ended"]["difference"]["n"] == 2 and "accuracy" not in kinds["open_ended"]["difference"]


def test_intervals_are_clustered_by_image() -> None:
    """Twenty prompts of two images are two draws, not twenty."""
    changes = [0.0, 1.0] * 10
    before, after = HeldoutRewards([0.0] * 20, [1.0] * 20, [0.0] * 20), HeldoutRewards(changes, [1.0] * 20, changes)
    of_two = [prompt("count", "3", image=f"image {number % 2}") for number in range(20)]
    of_twenty = [prompt("count", "3", image=f"image {number}") for number in range(20)]
    wide, narrow = (compare(before, after, prompts, seed=0)["difference"] for prompts in (of_two, of_twenty))
    assert (wide["low"], wide["high"]) == (0.0, 1.0)
    assert 0.2 < narrow["low"] < narrow["high"] < 0.8


def test_heldout_prompts_have_the_mix_of_the_prompts(inputs: dict[str, Path], config: RlPolicy) -> None:
    """Few open-ended questions on held-out images: then there are few others, too."""
    rows = read_table(inputs["instruction_samples"] / "samples.parquet")
    of_heldout = [r for r in rows if pair_split(r["image_id"], HELDOUT_SHARE, 1) == "heldout"]
    opened = [row for row in of_heldout if row["split"] == "preference" and row["task"] == "open"]
    for row in opened[2:]:
        row["task"] = "count"
    many = config.model_copy(update={"heldout_prompts": len(rows)})
    data = select_prompts(rows, LengthScorer(), many, HELDOUT_SHARE, seed=1)
    assert sum(p.kind == "open_ended" for p in data.prompts) * 2 == len(data.prompts)
    assert [p.kind for p in data.heldout].count("open_ended") == 1 and len(data.heldout) == 2


def test_batch_size_must_be_a_multiple_of_the_rollouts(
    inputs: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    config = settings.rl_policy.model_copy(update={"rollouts": 5})
    uneven = Profile.model_construct(name="test", seed=5, compute=settings.compute, rl_policy=config)
    with pytest.raises(ProfileError, match=r"8 completions per step; must be a multiple of rl_policy.rollouts = 5"):
        train_grpo.run(inputs, tmp_path, uneven, SilentLogger(), **OPTIONS)
    assert not list(tmp_path.iterdir())


def test_run_changes_only_the_language_model(policy_inputs: dict[str, Path], settings: Profile, tmp_path: Path) -> None:
    metrics = train_grpo.run(policy_inputs, tmp_path, settings, SilentLogger(), **OPTIONS)
    history = json.loads((tmp_path / "history.json").read_text())
    assert [row["step"] for row in history] == [1, 2]
    assert all(row["kl"] is not None and 0 <= row["reward"] <= 1 for row in history)
    assert metrics["equal_groups"] == sum(row["equal_groups"] for row in history) / 2
    rewards = json.loads((tmp_path / "rewards.json").read_text())
    assert set(rewards) == {"before", "after", "difference", "kinds"}
    assert sum(of_kind["before"]["n"] for of_kind in rewards["kinds"].values()) == rewards["before"]["n"]
    assert metrics["reward_after"] == rewards["after"]["value"]
    assert metrics["heldout_prompts"] == rewards["before"]["n"] == 4
    assert (tmp_path / "plots" / "reward_curve.png").stat().st_size > 1000
    start = load_vlm(policy_inputs["reasoning_model"] / "model", settings.compute).model.state_dict()
    policy = load_vlm(tmp_path / "model", settings.compute).model.state_dict()
    moved = {name for name in start if not torch.equal(start[name], policy[name])}
    assert moved and not any(".visual." in name for name in moved)


def test_token_types_mark_the_image_tokens_for_prompts_of_different_lengths(
    inputs: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    policy = load_vlm(inputs["vlm_score_model_p30s60"] / "model", settings.compute)
    questions = ["?", "Which colour has the ship on the left of the image, and how many are there of it?"]
    prompts = [
        PolicyPrompt(
            "s",
            "i",
            str(inputs["score_model"].parent / f"{i}.png"),
            [Message(role="user", content=q)],
            "count",
            "3",
            0.0,
        )
        for i, q in enumerate(questions)
    ]
    seen: list[bool] = []

    def check(_: torch.nn.Module, args: tuple[()], kwargs: dict[str, torch.Tensor]) -> None:
        ids, types = kwargs["input_ids"], kwargs["mm_token_type_ids"]
        if ids.shape == types.shape:
            seen.append(torch.equal(types.bool(), ids == policy.model.config.image_token_id))

    policy.model.model.register_forward_pre_hook(check, with_kwargs=True)
    training_run = TrainingRun(settings.seed, settings.compute, tmp_path, SilentLogger())
    side = policy.processor.tokenizer.padding_side
    train_grpo.train_grpo(policy, prompts, None, settings.rl_policy, training_run)
    assert seen and all(seen)
    assert policy.processor.tokenizer.padding_side == side


def test_rules_only_is_deterministic(policy_inputs: dict[str, Path], settings: Profile, tmp_path: Path) -> None:
    outs = [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        out.mkdir()
    first, second = (
        train_grpo.run(policy_inputs, out, settings, SilentLogger(), **{**OPTIONS, "score_reward": False})
        for out in outs
    )
    assert first == second
    assert weights_version(outs[0] / "model") == weights_version(outs[1] / "model")
