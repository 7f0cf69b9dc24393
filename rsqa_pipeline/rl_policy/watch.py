"""Watches a GRPO training for reward hacking: proxy against gold, and six monitors (`rl_policy.monitors`).

A check answers the probes with a fixed seed and draws from no generator of the training, so a training that no alarm
stops ends with the same weights as an unwatched one.

A monitor of ``stop_on`` above its threshold ends the training. Checkpoints are then written at checks without such an
alarm alone, so the last one before the alarm is the policy that is kept.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.profile import Monitor, RlPolicy
from rsqa_pipeline.profile import Watch as WatchSettings
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.rl_policy.gold import Gold, one_per_image, scores_of
from rsqa_pipeline.rl_policy.heldout import GENERATE_BATCH
from rsqa_pipeline.rl_policy.monitors import MIN_PROBES, Alarm, Check, Values, alarms_of, read_monitors
from rsqa_pipeline.rl_policy.policy_reward import measure
from rsqa_pipeline.rl_policy.prompts import PolicyPrompt
from rsqa_pipeline.rl_policy.reasoning import reasoning_prompt
from rsqa_pipeline.rl_policy.rewards import read_answer
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.tracking.run_logger import RunLogger

RECORD = "watch.json"
"""In the training's folder: the checks so far, for a training that resumes."""

log = logging.getLogger(__name__)


@dataclass
class Watch:
    """What one training is watched with, and what was seen."""

    settings: WatchSettings
    config: RlPolicy
    probes: Sequence[PolicyPrompt]
    scorer: Scorer
    """Scores answers with their own image and another."""
    reward_scorer: Scorer | None
    """Of the reward that is optimised; None trains on rules alone."""
    gold: Gold
    seed: int
    checks: list[Check] = field(default_factory=list)
    readings: list[dict[Monitor, float | None]] = field(default_factory=list)
    """The monitors' values at each check."""
    stopped_at: int | None = None
    """Step at which an alarm stopped the training."""
    kept_step: int | None = None
    """Step of the policy that a stopped training keeps."""

    def check(self, policy: Vlm, step: int, kl: float | None, entropy: float | None) -> list[Alarm]:
        """Measures the policy after a step. Returns the alarms.

        Args:
            kl: nats per token, mean over the steps since the check before; so is ``entropy``.
        """
        was_training = policy.model.training
        policy.model.eval()
        contexts = [reasoning_prompt(probe.context) for probe in self.probes]
        images = [open_image(probe.image) for probe in self.probes]
        sampling = self.config.sampling
        replies = generate(
            policy, contexts, images, sampling, sampling.max_new_tokens, GENERATE_BATCH, self.seed, samples=1
        )
        texts = [text for (text,) in replies]
        thresholds = self.settings.monitors.thresholds
        gold = self.gold.measure(policy, texts) if "proxy_gold" in thresholds else []
        policy.model.train(was_training)
        proxy = measure(texts, self.probes, self.reward_scorer, self.config).total
        gain = self._image_gain(texts) if "image" in thresholds else []
        self.checks.append(Check(step, texts, proxy, gold, gain, kl, entropy))
        return self._read()

    def alarms(self) -> list[Alarm]:
        """All alarms so far, by step."""
        thresholds = self.settings.monitors.thresholds
        return [
            alarm
            for check, readings in zip(self.checks, self.readings, strict=True)
            for alarm in alarms_of(check.step, readings, thresholds)
        ]

    def report(self) -> dict[str, Any]:
        """What ``watch.json`` of a policy holds.

        Example: ``{"thresholds": {"kl": 0.5, ..}, "stop_on": ["phrase"], "checks": [{"step": 0, "proxy": .41,
        "gold": .55, "readings": {"kl": None, ..}}, ..], "alarms": [{"step": 40, "monitor": "phrase", "value": .41,
        "threshold": .1}], "stopped_at": 40, "kept_step": 30}``
        """
        return {
            "thresholds": self.settings.monitors.thresholds,
            "stop_on": self.settings.stop_on,
            "checks": [
                {"step": check.step, "proxy": _mean(check.proxy), "gold": _mean(check.gold), "readings": readings}
                for check, readings in zip(self.checks, self.readings, strict=True)
            ],
            "alarms": [asdict(alarm) for alarm in self.alarms()],
            "stopped_at": self.stopped_at,
            "kept_step": self.kept_step,
        }

    def metrics(self) -> Metrics:
        """Number of checks and alarms; steps of the first alarm and of the policy that was kept, if there are any."""
        alarms = self.alarms()
        found = {"watch/checks": float(len(self.checks)), "watch/alarms": float(len(alarms))}
        if alarms:
            found["watch/first_alarm_step"] = float(alarms[0].step)
        if self.kept_step is not None:
            found["watch/kept_step"] = float(self.kept_step)
        return found

    def save(self, folder: Path) -> None:
        """Writes the checks so far, whole or not at all."""
        writing = folder / f"{RECORD}.writing"
        writing.write_text(json.dumps([asdict(check) for check in self.checks]), encoding="utf-8")
        writing.replace(folder / RECORD)

    def load(self, folder: Path, last_step: int | None = None) -> None:
        """Restores the checks of a training that resumes after ``last_step``; None restores all of them."""
        file = folder / RECORD
        saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
        self.checks, self.readings = [], []
        for row in saved:
            if last_step is None or row["step"] <= last_step:
                self.checks.append(Check(**row))
                self._read()

    def _read(self) -> list[Alarm]:
        thresholds, step = self.settings.monitors.thresholds, self.checks[-1].step
        references = [probe.reference for probe in self.probes]
        self.readings.append(read_monitors(self.checks, references, thresholds))
        return alarms_of(step, self.readings[-1], thresholds)

    def _image_gain(self, texts: Sequence[str]) -> Values:
        answers = [read_answer(text) for text in texts]
        others = [*self.probes[1:], self.probes[0]]
        own = scores_of(answers, self.probes, self.probes, self.scorer)
        other = scores_of(answers, self.probes, others, self.scorer)
        return [None if a is None or b is None else a - b for a, b in zip(own, other, strict=True)]


class WatchCallback(TrainerCallback):
    """Checks the policy before the first step, every ``every`` steps and after the last one."""

    def __init__(
        self, watch: Watch, policy: Vlm, folder: Path, logger: RunLogger, save_start: Callable[[], None]
    ) -> None:
        """
        Args:
            folder: of this training alone, which outlives a kill.
            save_start: keeps the weights that the training starts from.
        """
        self._watch, self._policy, self._folder, self._logger = watch, policy, folder, logger
        self._save_start = save_start
        self._since: list[dict[str, float]] = []
        watch.load(folder)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        watch = self._watch
        watch.load(self._folder, state.global_step)
        if state.global_step == 0:
            watch.checks, watch.readings = [], []
            if watch.settings.stop_on:
                self._save_start()
            self._check(0)
        elif not watch.checks:
            raise DataError(f"{self._folder / RECORD} is missing, so the start of this training is not known; delete "
                            "this folder to train from the start")  # fmt: skip
        self._since = [logs for logs in state.log_history if logs["step"] > watch.checks[-1].step]

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs is None or "learning_rate" not in logs:  # the Trainer's last log is a summary, not a step
            return
        self._since.append(logs)
        stop_on, step = self._watch.settings.stop_on, state.global_step
        due = step % self._watch.settings.every == 0 or step >= state.max_steps
        reasons = [alarm for alarm in self._check(step) if alarm.monitor in stop_on] if due else []
        if stop_on:
            control.should_save = due and not reasons
        if reasons:
            self._watch.stopped_at = step
            control.should_training_stop = True

    def _check(self, step: int) -> list[Alarm]:
        known = {name: [row[name] for row in self._since if row.get(name) is not None] for name in ("kl", "entropy")}
        kl, entropy = (fmean(values) if values else None for values in known.values())
        self._since = []
        before = {alarm.monitor for alarm in self._watch.alarms() if alarm.step == self._last_step()}
        alarms = self._watch.check(self._policy, step, kl, entropy)
        self._watch.save(self._folder)
        self._log(alarms, step)
        for alarm in alarms:
            if alarm.monitor not in before:
                log.warning("watch: alarm at step %d: %s", step, alarm)
        return alarms

    def _last_step(self) -> int | None:
        return self._watch.checks[-1].step if self._watch.checks else None

    def _log(self, alarms: Sequence[Alarm], step: int) -> None:
        check, readings = self._watch.checks[-1], self._watch.readings[-1]
        values: dict[str, float | None] = {"proxy": _mean(check.proxy), "gold": _mean(check.gold)}
        values.update({str(name): value for name, value in readings.items()})
        values["alarms"] = float(len(alarms))
        found = {f"watch_{name}": value for name, value in values.items() if value is not None}
        self._logger.log_metrics(found, step=step)


def probes_of(heldout: Sequence[PolicyPrompt], count: int) -> list[PolicyPrompt]:
    """At most ``count`` held-out prompts, each on another image.

    Raises:
        DataError: fewer than `MIN_PROBES`.
    """
    probes = one_per_image(heldout, [prompt.image_id for prompt in heldout])[:count]
    if len(probes) < MIN_PROBES:
        raise DataError(
            f"rl_policy.watch: {len(probes)} held-out prompts on different images, at least {MIN_PROBES} are needed; "
            "raise rl_policy.heldout_prompts or preference_data.heldout_share"
        )
    return probes


def _mean(values: Values) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
