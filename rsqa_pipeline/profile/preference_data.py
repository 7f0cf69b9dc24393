"""Settings of preference data: the models that caption, answer and judge, and the imported pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rsqa_pipeline.profile.types import Count, Fraction, NonNegative, Sampling, Section


class ChatServer(Section):
    """An OpenAI-compatible chat server, and the limits on its use."""

    url: Annotated[str, Field(pattern=r"^https?://\S+$")]
    """Base address, e.g. ``https://api.openai.com/v1`` or ``http://localhost:8000/v1``."""
    api_key_env: str | None = None
    """Environment variable that holds the key; the key itself is not written to any file or log."""
    concurrency: Count = 8
    requests_per_minute: Count | None = None
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Longest time of one request, from connecting to the last byte of the reply."""
    tries: Count = 6
    """Maximum requests for one reply while the server is busy, failing or unreachable."""
    max_calls: Count | None = None
    """Cap on the replies bought from this model per asset, over all its runs; None means no cap."""
    max_tokens: Count | None = None
    """Cap on the tokens read and written by this model per asset, over all its runs; None means no cap."""
    usd_per_million_input_tokens: NonNegative = 0.0
    usd_per_million_output_tokens: NonNegative = 0.0


class TextModel(Section):
    """A model that may caption, answer, judge or rephrase: a transformers VLM, or one behind a chat server."""

    model: Annotated[str, Field(min_length=1)]
    """A folder or hub id; with ``server``, the model name on the server."""
    revision: str | None = None
    trust_remote_code: bool = False
    server: ChatServer | None = None

    @model_validator(mode="after")
    def _hub_or_server(self) -> TextModel:
        if self.server is not None and (self.revision is not None or self.trust_remote_code):
            raise ValueError("revision and trust_remote_code are for a folder or hub id, not beside server")
        return self


class RsSpecific(Section):
    """Hand-written remote-sensing questions, one per image, answered by several models and judged (paper, VIPD)."""

    images: Count
    answerers: list[str] = Field(min_length=2)
    """Names in ``models``, or ``vlm`` (paper: two VLMs)."""
    rephraser: str | None = None
    """Name in ``models`` of the model that rewords each question; None asks it as written."""


class PairFile(Section):
    """A file of external preference pairs."""

    format: Literal["rs_pairs", "ultrafeedback", "rlhf_v", "trl"]
    path: str
    images: str | None = None
    """Folder that image names are in; default: the file's own folder."""
    limit: Count | None = None
    """Maximum number of rows, from the start of the file."""


class PairImports(Section):
    """External pairs. They replace generated text pairs, and are added to the caption and instruction pairs made
    here."""

    text: list[PairFile] = Field(default=[])
    caption: list[PairFile] = Field(default=[])
    instruction: list[PairFile] = Field(default=[])

    @model_validator(mode="after")
    def _formats(self) -> PairImports:
        allowed = {
            "text": ("ultrafeedback", "trl", "rs_pairs"),
            "caption": ("rs_pairs", "trl"),
            "instruction": ("rs_pairs", "rlhf_v", "trl"),
        }
        wrong = [
            f"imports.{kind}: format {file.format!r} holds no such pairs; known here: {', '.join(formats)}"
            for kind, formats in allowed.items()
            for file in getattr(self, kind)
            if file.format not in formats
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


OneFault = Literal["count", "colour", "place", "class", "invented_object"]

TRUTH_JUDGES = ("truth_graph", "recorded_corruption")
"""Judges that know the truth; any other judge is a model."""
BASE_VLM = "vlm"
"""Name of the base VLM among captioners and answerers."""


class PreferenceData(Section):
    models: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")], TextModel] = Field(default={})
    """Models, by the names used in judge, captioners, answerers and rs_specific."""
    judge: str
    """``truth_graph``, ``recorded_corruption``, or a name in ``models``."""
    judge_noise: NonNegative
    """Standard deviation added to each of the five marks by a judge that knows the truth; sets how often it agrees."""
    judge_sample: Annotated[int, Field(ge=0)] = 0
    """Pairs per asset on which a model judge is asked again, to measure its consistency."""
    labels: str | None = None
    """CSV filled in by raters (`rsqa labels export`); the judge's agreement with it is reported in the metrics."""
    captioners: list[str] = Field(min_length=2)
    """Captioners of the images: scene captioners, corruption sources, ``vlm``, names in ``models``."""
    answerers: list[str] = Field(default=[BASE_VLM], min_length=1)
    """Models that answer the questions: ``vlm`` (two answers), names in ``models`` (one each)."""
    rs_specific: RsSpecific | None = None
    sampling: Sampling
    caption_images: Count
    one_fault_pairs: dict[OneFault, Count] | None = None
    """Scenes only: training pairs of the expert's caption against the same one with one fault, by kind of fault. Where
    captioners differ in several ways, one easy difference hides the others from training."""
    instruction_samples: Count
    text_pairs: Count
    """Text pairs made here; none are made if ``imports.text`` names a file."""
    imports: PairImports = PairImports()
    heldout_share: Fraction

    @model_validator(mode="after")
    def _names_and_combinations(self) -> PreferenceData:
        faults = [*self._unknown_names(), *self._unfit_judge()]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _unknown_names(self) -> list[str]:
        models = ", ".join(sorted(self.models)) or "none"
        faults = []
        if self.judge not in (*TRUTH_JUDGES, *self.models):
            faults.append(f"judge {self.judge!r} is unknown; known: {', '.join(TRUTH_JUDGES)}, and models: {models}")
        asked = [("answerers", self.answerers)]
        if self.rs_specific is not None:
            asked.append(("rs_specific.answerers", self.rs_specific.answerers))
            if self.rs_specific.rephraser is not None and self.rs_specific.rephraser not in self.models:
                faults.append(f"rs_specific.rephraser {self.rs_specific.rephraser!r} is unknown; models: {models}")
        for where, names in asked:
            unknown = sorted(set(names) - {BASE_VLM, *self.models})
            if unknown:
                faults.append(f"{where}: {', '.join(unknown)} unknown; known: {BASE_VLM}, and models: {models}")
        for where, names in [("captioners", self.captioners), *asked]:
            if len(set(names)) < len(names):
                faults.append(f"{where}: a name stands twice")
        return faults

    def _unfit_judge(self) -> list[str]:
        """Faults: texts and measures that do not fit the judge."""
        faults = []
        if self.judge in TRUTH_JUDGES:
            if self.rs_specific is not None:
                faults.append(f"rs_specific needs a judge in models; {self.judge} knows the truth of no such question")
            if self.judge_sample:
                faults.append(f"judge_sample measures a judge in models; {self.judge} always says the same")
        written = sorted(set(self.captioners + self.answerers) & set(self.models))
        if self.judge == "recorded_corruption" and written:
            faults.append(
                f"judge recorded_corruption cannot mark what {', '.join(written)} writes: no fault is recorded"
            )
        return faults

    def outside_paths(self, kind: Literal["text", "caption", "instruction"]) -> tuple[str, ...]:
        """Files and folders named here from which the pairs of a kind are made: imports, labels, local models."""
        files: list[PairFile] = getattr(self.imports, kind)
        paths: list[str | None] = [path for file in files for path in (file.path, file.images)]
        if kind != "text":
            paths += [self.labels]
            paths += [m.model for m in self.models.values() if m.server is None and Path(m.model).is_dir()]
        return tuple(dict.fromkeys(path for path in paths if path is not None))
