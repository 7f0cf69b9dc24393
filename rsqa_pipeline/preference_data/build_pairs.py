"""Chosen/rejected pairs from judged candidates: the best mean mark is chosen, the others are rejected (paper, ICPD)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rsqa_pipeline.forgotten import FAULT, NOTHING, Forgotten
from rsqa_pipeline.preference_data.candidate import GENERATION, JUDGEMENT, Candidate, pair_split
from rsqa_pipeline.preference_data.chat.request import ChatRequest, Reply
from rsqa_pipeline.preference_data.judge import Judge, Judgement, JudgeRequest
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import PREFERENCE_PAIR, Family, Message, Metrics, pair_id, sha256, write_table


@dataclass(frozen=True)
class Judged:
    """A candidate and its judgement."""

    candidate: Candidate
    judgement: Judgement


@dataclass
class Pairs:
    """An asset's pairs and quarantine. Each *rival*, a candidate that is not chosen, becomes a pair or is
    quarantined. What is ``forgotten`` is in none of the tables, even if a model writes a forgotten text again."""

    asset: str
    forgotten: Forgotten = NOTHING
    rows: list[dict[str, Any]] = field(default_factory=list)
    quarantine: Quarantine = field(init=False)
    judged: list[Judged] = field(default_factory=list)
    generations: list[dict[str, Any]] = field(default_factory=list)
    """Rows of GENERATION: texts written by models, with prompt and sampling parameters."""
    _ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.quarantine = Quarantine(self.asset)

    def add(self, pair: dict[str, Any]) -> None:
        """Adds a pair. Quarantines it if its texts are equal, one is empty, the pair is a duplicate or forgotten."""
        identity = pair_id(pair["image_id"], pair["context"], pair["chosen"], pair["rejected"])
        chosen, rejected = pair["chosen_source"], pair["rejected_source"]
        texts = (pair["chosen"], pair["rejected"])
        if identity in self.forgotten or any(self._is_forgotten(pair["image_id"], pair["context"], t) for t in texts):
            self.quarantine.add(identity, *FAULT)
        elif not (pair["chosen"].strip() and pair["rejected"].strip()):
            self.quarantine.add(identity, "empty_text", f"{chosen} or {rejected} says nothing")
        elif pair["chosen"] == pair["rejected"]:
            self.quarantine.add(identity, "equal_text", f"{chosen} and {rejected} say the same")
        elif identity in self._ids:
            self.quarantine.add(identity, "duplicate_pair", f"{rejected} says what another rival says")
        else:
            self._ids.add(identity)
            self.rows.append({**pair, "pair_id": identity})

    def add_generation(
        self, purpose: str, image_id: str, source: str, reply: Reply, model: str, request: ChatRequest
    ) -> None:
        """Records how a model wrote a text.

        Args:
            purpose: ``caption``, ``answer`` or ``rephrase``.
            model: folder, hub id, or model name on the server.
        """
        if self._is_forgotten(image_id, (), reply.text):
            return
        self.generations.append(
            {
                "image_id": image_id,
                "purpose": purpose,
                "source": source,
                "text": reply.text,
                "model": model,
                "version": reply.version,
                "prompt": list(request.messages),
                "temperature": request.temperature,
                "top_p": request.top_p,
                "max_new_tokens": request.max_new_tokens,
                "draw": request.draw,
            }
        )

    def add_ranked(self, judged: Sequence[Judged], family: Family, judge: str, split: str) -> None:
        """Adds the pairs of one subject: the candidate with the best mean mark against each of the others.

        If several have the best mark, the first text in alphabetical order is chosen. A rival is quarantined if it has
        no marks, the same mark as the chosen one, or the same text; any candidate is if it is forgotten.
        """
        for candidate in (entry.candidate for entry in judged if self._refuses(entry.candidate)):
            self.quarantine.add(candidate_key(candidate), *FAULT)
        judged = [entry for entry in judged if not self._refuses(entry.candidate)]
        self.judged += judged
        marked = [entry for entry in judged if entry.judgement.marks is not None]
        best = min(marked, key=lambda entry: (-mean_mark(entry), entry.candidate.text)) if marked else None
        for rival in judged:
            if rival is best:
                continue
            key = candidate_key(rival.candidate)
            if best is None or rival.judgement.marks is None:
                self.quarantine.add(key, rival.judgement.reason, f"{rival.candidate.source}: {rival.judgement.detail}")
            elif rival.candidate.text != best.candidate.text and mean_mark(rival) == mean_mark(best):
                sources = f"{best.candidate.source} and {rival.candidate.source}"
                self.quarantine.add(key, "equal_marks", f"{sources} both have {mean_mark(best):.3f}")
            else:
                self.add(judged_pair(best, rival, family, judge, split))

    def _refuses(self, candidate: Candidate) -> bool:
        return self._is_forgotten(candidate.subject.image_id, candidate.subject.context, candidate.text)

    def _is_forgotten(self, image_id: str | None, context: Sequence[Message], text: str) -> bool:
        return self.forgotten.holds(image_id, [*context, Message(role="assistant", content=text)])

    def write(self, out: Path) -> Metrics:
        """Writes pairs, judgements, generations and quarantine (.parquet), and returns counts of their contents."""
        write_table(out / "pairs.parquet", PREFERENCE_PAIR, self.rows)
        write_table(out / "judgements.parquet", JUDGEMENT, (_judgement_row(entry) for entry in self.judged))
        write_table(out / "generations.parquet", GENERATION, self.generations)
        self.quarantine.write(out)
        return self._metrics()

    def _metrics(self) -> Metrics:
        metrics: Metrics = {
            **self.quarantine.metrics(len(self.rows)),
            "heldout_pairs": float(sum(row["split"] == "heldout" for row in self.rows)),
            "judged_texts": float(len(self.judged)),
        }
        for family, count in sorted(Counter(row["family"] for row in self.rows).items()):
            metrics[f"pairs/{family}"] = float(count)
        for family, (share, count) in _agreement(self.rows).items():
            metrics[f"judge_agreement/{family}"] = share
            metrics[f"judge_agreement_pairs/{family}"] = float(count)
        return metrics


def judge_all(candidates: Sequence[Candidate], judge: Judge) -> list[list[Judged]]:
    """Marks every candidate. Returns one list per subject, with subjects and candidates in input order."""
    requests = [JudgeRequest(c.subject.image_id, c.subject.context, c.text, c.subject.image) for c in candidates]
    by_subject: dict[str, list[Judged]] = {}
    for candidate, judgement in zip(candidates, judge.mark(requests), strict=True):
        by_subject.setdefault(candidate.subject.key, []).append(Judged(candidate, judgement))
    return list(by_subject.values())


def add_judged(candidates: Sequence[Candidate], judge: Judge, family: Family, settings: Profile, pairs: Pairs) -> None:
    """Judges the candidates and adds each subject's pairs, in the split of its image."""
    for judged in judge_all(candidates, judge):
        image_id = judged[0].candidate.subject.image_id
        split = pair_split(image_id, settings.preference_data.heldout_share, settings.seed)
        pairs.add_ranked(judged, family, judge.name, split)


def mean_mark(entry: Judged) -> float:
    """Mean of the five marks. The candidate must have marks."""
    assert entry.judgement.marks is not None
    return float(entry.judgement.marks.mean)


def judged_pair(chosen: Judged, rejected: Judged, family: Family, judge: str, split: str) -> dict[str, Any]:
    """A row of pairs.parquet without its id, with the judge's marks."""
    better, worse = chosen.judgement.true_mark, rejected.judgement.true_mark
    return {
        **plain_pair(chosen.candidate, rejected.candidate, family, judge, split),
        "chosen_mark": mean_mark(chosen),
        "rejected_mark": mean_mark(rejected),
        "true_margin": None if better is None or worse is None else better - worse,
    }


def plain_pair(chosen: Candidate, rejected: Candidate, family: Family, judge: str, split: str) -> dict[str, Any]:
    """A row of pairs.parquet without id and marks."""
    return {
        "image_id": chosen.subject.image_id,
        "image": chosen.subject.image,
        "family": family,
        "context": list(chosen.subject.context),
        "chosen": chosen.text,
        "rejected": rejected.text,
        "chosen_source": chosen.source,
        "rejected_source": rejected.source,
        "judge": judge,
        "split": split,
    }


def candidate_key(candidate: Candidate) -> str:
    """Id of a candidate in the quarantine."""
    return sha256(candidate.subject.key, candidate.source, candidate.text)


def _judgement_row(entry: Judged) -> dict[str, Any]:
    marks = asdict(entry.judgement.marks) if entry.judgement.marks is not None else {}
    named = {name: marks.get(name) for name in ("relevance", "specificity", "completeness", "clarity", "richness")}
    candidate = entry.candidate
    return {
        "image_id": candidate.subject.image_id,
        "text": candidate.text,
        "source": candidate.source,
        **named,
        "true_mark": entry.judgement.true_mark,
        "judge_version": entry.judgement.version or None,
    }


def _agreement(rows: Iterable[dict[str, Any]]) -> dict[str, tuple[float, int]]:
    """By family: share of marked pairs whose chosen text is truly better, and their number. True ties are left out."""
    wins: dict[str, list[bool]] = {}
    for row in rows:
        margin = row.get("true_margin")
        if row.get("chosen_mark") is not None and margin:
            wins.setdefault(row["family"], []).append(margin > 0)
    return {family: (sum(won) / len(won), len(won)) for family, won in sorted(wins.items())}
