"""Model folders from anywhere: every fault is a ModelError of one line, and nothing large is allocated before it."""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models import bounded_trial
from rsqa_pipeline.models.load import load_clip, load_processor, load_vlm
from rsqa_pipeline.models.model_folder import read_config
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.score_model.network.checkpoint import read_processor
from rsqa_pipeline.score_model.network.model import ScoreModel
from tests.mutations import mutate, mutations, try_use

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def score_folder(vlm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("score")
    shutil.copytree(vlm_folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    ScoreModel.from_base(str(vlm_folder)).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(score_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(score_folder, tmp_path / "copy"))


def load(folder: Path) -> None:
    ScoreModel.from_pretrained(folder)
    read_processor(folder)


def edit(folder: Path, change: Edit) -> None:
    file = folder / "config.json"
    settings = json.loads(file.read_text())
    change(settings)
    file.write_text(json.dumps(settings))


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["text_config"].update(hidden_size=2**20), "config.json describes a model of|cannot be built"),
        (lambda s: s["text_config"].update(vocab_size=2**30), "config.json describes a model of"),
        (lambda s: s["text_config"].update(intermediate_size=10**40), "intermediate_size is 1000"),
        (lambda s: s["text_config"].update(num_hidden_layers=1000), "config.json describes a model of|cannot be"),
        (lambda s: s["text_config"].update(num_hidden_layers=10**6), "num_hidden_layers is 1000000"),
        (lambda s: s["vision_config"].update(depth=10**6), "depth is 1000000"),
        (lambda s: s["text_config"].update(rms_norm_eps=float("nan")), "rms_norm_eps is nan"),
        (lambda s: s["text_config"].update(hidden_size="wide"), "cannot be"),
        (lambda s: s["text_config"].update(num_attention_heads=0), "cannot be"),
        (lambda s: s.update(vision_config=[1]), "cannot be"),
        (lambda s: s.update(extra=deep(100)), "nested more than 32 deep"),
        (lambda s: s.update(architectures="ScoreModel"), "not a score model"),
        (lambda s: s.update(architectures=[{}]), "not a score model"),
        (lambda s: s.update(backbone_model_type=["qwen2_vl"]), "is unknown; known: qwen2_vl"),
    ],
)
def test_a_config_that_no_model_has_is_refused(copy: Path, change: Edit, message: str) -> None:
    edit(copy, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=message) as error:
        load(copy)
    assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


def test_a_deeply_nested_or_huge_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="cannot be read"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"a": "' + "x" * 5 * 2**20 + '"}')
    with pytest.raises(ModelError, match="more than 4 MiB"):
        read_config(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_integer_weights_are_refused(copy: Path, vlm_folder: Path, tmp_path: Path, cpu: Compute, dtype: Any) -> None:
    vlm = Path(shutil.copytree(vlm_folder, tmp_path / "vlm"))
    for folder in (copy, vlm):
        file = folder / "model.safetensors"
        save_file({n: t.to(dtype) for n, t in load_file(file).items()}, file, metadata={"format": "pt"})
    for attempt in (lambda: load(copy), lambda: load_vlm(vlm, cpu), lambda: ScoreModel.from_base(str(vlm))):
        with pytest.raises(ModelError, match="weights must be floating point"):
            attempt()


def test_half_precision_weights_are_read(copy: Path) -> None:
    file = copy / "model.safetensors"
    save_file({n: t.to(torch.bfloat16) for n, t in load_file(file).items()}, file, metadata={"format": "pt"})
    assert ScoreModel.from_pretrained(copy).head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ messages[0].content.foo.bar }}",
        "{% for m in %}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_that_the_sandbox_refuses_is_found_at_loading(copy: Path, template: str) -> None:
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match="has a processor that cannot be read"):
        load_processor(copy)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% set s = namespace(t='xx') %}{% for i in range(99) %}{% set s.t = s.t ~ s.t %}{% endfor %}{{ s.t }}",
        "{{ messages[0].role * 10**10 }}",
        "{{ (messages | length + 9) ** (10 ** 9) }}",
        "{{ 10 ** (10 ** 9) }}",
    ],
)
def test_a_template_without_an_end_is_bounded(copy: Path, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops, recursion, doubled texts, native calls that no signal interrupts, constants computed at parsing."""
    monkeypatch.setattr(bounded_trial, "MAX_TRIAL_SECONDS", 1)
    (copy / "chat_template.jinja").write_text(template)
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match="the chat template needs more than 5 s or 512 MiB for short chats") as error:
        load_processor(copy)
    assert "\n" not in str(error.value) and time.monotonic() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"model": 3}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"added_tokens_decoder": 5}'),
        ("processor_config.json", "[1]"),
        ("processor_config.json", '{"image_processor": {"patch_size": "many"}}'),
    ],
)
def test_wrong_types_in_a_processors_files_are_model_errors(copy: Path, name: str, text: str) -> None:
    (copy / name).write_text(text)
    try:
        load(copy)
    except ModelError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["score model", "vlm", "clip"])
def test_mutated_files_load_or_are_model_errors(
    kind: str, score_folder: Path, vlm_folder: Path, clip_folder: Path, tmp_path: Path, cpu: Compute
) -> None:
    source, attempt = {
        "score model": (score_folder, load),
        "vlm": (vlm_folder, lambda folder: load_vlm(folder, cpu)),
        "clip": (clip_folder, lambda folder: load_clip(folder, cpu)),
    }[kind]
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    files = sorted(file for file in folder.iterdir() if file.is_file())
    refused = 0
    for number in range(mutations(60)):
        draw = random.Random(f"{kind} {number}")
        file = files[number % len(files)]
        sound = file.read_bytes()
        # A change within the weights themselves is another sound model; its version differs.
        head = sound[:4000] if file.suffix == ".safetensors" else sound
        file.write_bytes(mutate(head, draw) + sound[len(head) :])
        refused += not try_use(f"{kind} {number}, {file.name}", lambda: attempt(folder))
        file.write_bytes(sound)
    assert refused > 10
