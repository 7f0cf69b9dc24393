"""A killed CLIP training resumes from its last checkpoint and ends like an uninterrupted one."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from PIL import Image

from rsqa_pipeline.errors import DataError, ModelError, storage_error
from rsqa_pipeline.finetuned_models import captioned_images, finetune_clip
from rsqa_pipeline.finetuned_models.finetune_clip import train_clip
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.finetuned_models.training import StepMetrics, TrainingRun
from rsqa_pipeline.models.load import Clip, base_model, load_clip
from rsqa_pipeline.profile import ClipStep, Profile
from rsqa_pipeline.score_model.training.distributed import ProcessGroup
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.state.conftest import Disk
from tests.state.conftest import disk as disk
from tests.state.test_full_disk import full
from tests.training_kills import KILLS, Stopped, StoppingLogger, run_with_kills, save_each_step

ALONE = ProcessGroup(torch.device("cpu"))
STEPS = 5
"""Two and a half epochs of 12 samples: an optimizer step of two batches, and one of the rest."""
STEP = ClipStep(
    learning_rate=3e-4, batch_size=5, gradient_accumulation=2, steps=STEPS, weight_decay=0.1, warmup_steps=2
)


@pytest.fixture(autouse=True)
def a_checkpoint_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    save_each_step(monkeypatch)


def trained(
    inputs: dict[str, Path], settings: Profile, folder: Path, logger: SilentLogger, step: ClipStep = STEP
) -> tuple[list[StepMetrics], dict[str, torch.Tensor]]:
    """History and weights."""
    folder.mkdir(exist_ok=True)
    clip = load_clip(base_model(inputs["base_models"], "clip"), settings.compute)
    rows = subset_samples(inputs, "all", "image_text_pairs", "caption")
    history = train_clip(clip, rows, step, TrainingRun(3, settings.compute, folder, logger), ALONE)
    return history, clip.model.state_dict()


def saved(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("captions/step-*"))


@pytest.mark.parametrize(
    ("inputs", "dtype", "frozen", "chunk_size"),
    [("corpus", "float32", True, None), ("siglip_corpus", "bfloat16", False, 2)],
)
def test_a_training_stopped_at_every_step_ends_like_an_uninterrupted_one(
    request: pytest.FixtureRequest,
    settings: Profile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    inputs: str,
    dtype: str,
    frozen: bool,
    chunk_size: int | None,
) -> None:
    settings = settings.model_copy(update={"compute": settings.compute.model_copy(update={"dtype": dtype})})
    step = STEP.model_copy(update={"frozen_vision": frozen, "chunk_size": chunk_size})
    models = request.getfixturevalue(inputs)
    history, weights = trained(models, settings, tmp_path / "whole", SilentLogger(), step)
    assert [row["step"] for row in history] == list(range(1, STEPS + 1))
    assert saved(tmp_path / "whole") == [STEPS]
    opened: list[str] = []
    open_image = captioned_images.open_image

    def recorded(name: str) -> Image.Image:
        opened.append(name)
        return open_image(name)

    monkeypatch.setattr(captioned_images, "open_image", recorded)
    folder = tmp_path / "stopped"
    for stop in range(2, STEPS + 1):
        with pytest.raises(Stopped):
            trained(models, settings, folder, StoppingLogger(stop), step)
        assert saved(folder) == [stop - 1]
    logger = StoppingLogger(0)
    resumed, resumed_weights = trained(models, settings, folder, logger, step)
    assert resumed == history
    assert list(dict.fromkeys(logger.steps)) == list(range(1, STEPS + 1))  # the curve is logged in full
    assert all(torch.equal(resumed_weights[name], tensor) for name, tensor in weights.items())
    assert len(opened) == 1 + 6  # the first one for its size, and each of the six images: by the first attempt alone
    again, again_weights = trained(models, settings, folder, SilentLogger(), step)  # killed after its end
    assert again == history
    assert all(torch.equal(again_weights[name], tensor) for name, tensor in weights.items())


def test_a_training_killed_at_random_moments_ends_like_an_uninterrupted_one(
    corpus: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    step = STEP.model_copy(update={"steps": 10 * KILLS, "chunk_size": 3})
    section = settings.finetuned_models.model_copy(update={"clip": step})
    settings = settings.model_copy(update={"finetuned_models": section})
    report = run_with_kills(finetune_clip.run, corpus, settings, {"subset": "all"}, tmp_path, seed=1)
    print(report)
    assert len(report.steps_at_kills) == KILLS and report.steps == 10 * KILLS
    assert report.same_steps and report.same_curve and report.same_weights and not report.left


def test_a_changed_checkpoint_is_not_used(
    corpus: dict[str, Path], settings: Profile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history, weights = trained(corpus, settings, tmp_path / "whole", SilentLogger())
    with pytest.raises(Stopped):
        trained(corpus, settings, tmp_path / "stopped", StoppingLogger(4))
    (checkpoint,) = (tmp_path / "stopped/captions").glob("step-*")
    content = bytearray((checkpoint / "training.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / "training.pt").write_bytes(content)
    again, again_weights = trained(corpus, settings, tmp_path / "stopped", SilentLogger())
    assert f"{checkpoint} has changed since it was written" in caplog.text
    assert again == history and all(torch.equal(again_weights[name], tensor) for name, tensor in weights.items())


def test_a_full_disk_costs_the_new_checkpoint_only(
    siglip_corpus: dict[str, Path], settings: Profile, tmp_path: Path, disk: Disk
) -> None:
    folder = tmp_path / "disk"
    disk(folder)
    history, _ = trained(siglip_corpus, settings, tmp_path / "whole", SilentLogger())
    with pytest.raises(Stopped):
        trained(siglip_corpus, settings, folder, StoppingLogger(2))
    (checkpoint,) = (folder / "captions").glob("step-*")
    size = (checkpoint / "training.pt").stat().st_size
    with ExitStack() as filled, pytest.raises(Exception) as caught:
        fill = lambda: filled.enter_context(full(folder, size // 2 // 1024))  # noqa: E731
        trained(siglip_corpus, settings, folder, StoppingLogger(2, fill))
    error = storage_error(caught.value)
    assert error is not None and "free space, and run the same command again" in str(error)
    assert saved(folder) == [1] and not list(folder.glob("captions/writing"))
    resumed, _ = trained(siglip_corpus, settings, folder, SilentLogger())
    assert resumed == history


def ruined_by_a_word(corpus: dict[str, Path], settings: Profile, word: str) -> Clip:
    """A CLIP that is not finite where a text has the word."""
    clip = load_clip(base_model(corpus["base_models"], "clip"), settings.compute)
    others = "a red field, a green field, a blue field seen from above"
    ruined, known = (set(clip.tokenizer(text)["input_ids"]) for text in (f"a {word} field", others))
    assert ruined - known
    ids = torch.tensor(sorted(ruined - known))

    def ruin(_: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output * torch.where(torch.isin(inputs[0], ids), float("nan"), 1.0).unsqueeze(-1)

    clip.model.text_model.get_input_embeddings().register_forward_hook(ruin)
    return clip


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_a_loss_that_is_not_finite_stops_at_its_step_and_names_the_samples(
    corpus: dict[str, Path], settings: Profile, tmp_path: Path, chunk_size: int | None
) -> None:
    clip = ruined_by_a_word(corpus, settings, "white")
    rows = subset_samples(corpus, "all", "image_text_pairs", "caption")
    step = ClipStep(learning_rate=1e-4, batch_size=2, steps=6, chunk_size=chunk_size)
    logger = StoppingLogger(0)
    with pytest.raises(ModelError) as caught:
        train_clip(clip, rows, step, TrainingRun(3, settings.compute, tmp_path, logger), ALONE)
    found = re.fullmatch(
        r"captions: the loss is not a finite number at step (\d), samples (\w+), (\w+); lower .*", str(caught.value)
    )
    assert found is not None
    assert int(found[1]) == len(logger.steps) + 1
    texts = {row["sample_id"]: row["messages"][-1]["content"] for row in rows}
    assert any("white" in texts[name] for name in found.groups()[1:])
    assert saved(tmp_path) == ([int(found[1]) - 1] if logger.steps else [])


def test_a_gradient_that_is_not_finite_stops_at_its_step(
    corpus: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    """The loss is still finite there. No checkpoint holds the weights that it would ruin."""
    clip = load_clip(base_model(corpus["base_models"], "clip"), settings.compute)
    calls: list[int] = []

    def ruin(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * (float("inf") if len(calls) == 3 else 1.0)

    clip.model.text_projection.weight.register_hook(ruin)
    rows = subset_samples(corpus, "all", "image_text_pairs", "caption")
    step = ClipStep(learning_rate=1e-4, batch_size=12, steps=6)
    expected = r"captions: the gradient is not a finite number at step 3, samples (\w+, ){7}\w+ and 4 more; lower"
    with pytest.raises(ModelError, match=expected):
        train_clip(clip, rows, step, TrainingRun(3, settings.compute, tmp_path, SilentLogger()), ALONE)
    assert saved(tmp_path) == [2]


def test_an_empty_subset_is_refused_before_work(
    emptied: Callable[[str], dict[str, Path]], settings: Profile, tmp_path: Path
) -> None:
    inputs = emptied("caption")
    with pytest.raises(DataError, match=r"subset empty keeps no caption of .*: there is nothing to train on"):
        finetune_clip.run(inputs, tmp_path / "out", settings, SilentLogger(), subset="empty")
    assert not settings.state.exists()
