"""CLIP score: against transformers' own similarity, one pair at a time, and without an image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

from rsqa_pipeline.models import clip_score
from rsqa_pipeline.models.clip_score import ClipScorer, candidate_text
from rsqa_pipeline.models.load import Clip
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.tiny_models.architecture import new_clip, new_clip_image_processor, train_clip_tokenizer

TEXTS = ["two white tanks on the left", "a red ship", "several houses near a river", "How many ships are there? 3"]
QUESTION = {"role": "user", "content": "How many ships are there?"}


@pytest.fixture(scope="module")
def clip() -> Clip:
    tokenizer = train_clip_tokenizer(TEXTS * 4)
    model = new_clip(tokenizer, image_size=32, seed=0).eval()
    return Clip(model, tokenizer, new_clip_image_processor(32), "test-version")


@pytest.fixture
def scorer(clip: Clip) -> ClipScorer:
    return ClipScorer(clip, 2)


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file in files:
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(file)
    return [str(file) for file in files]


def reference(clip: Clip, image: str, text: str) -> float:
    """transformers' own logits of one image and one text, without the learned scale."""
    pixels = clip.image_processor(images=Image.open(image), return_tensors="pt")["pixel_values"]
    tokens = clip.tokenizer([text], return_tensors="pt", truncation=True, max_length=77)
    with torch.no_grad():
        logits = clip.model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels
        ).logits_per_image
    return (logits / clip.model.logit_scale.exp()).item()


def test_equals_the_models_own_similarity_for_any_batch_size(clip, images):
    groups = [
        ScoringGroup(images[0], [], TEXTS[:2]),
        ScoringGroup(images[1], [], TEXTS),
        ScoringGroup(images[2], [QUESTION], ["3"]),
    ]
    expected = [[reference(clip, g.image, candidate_text(g.context, t)) for t in g.candidates] for g in groups]
    for batch_size in (1, 2, 64):
        scores = ClipScorer(clip, batch_size).score(groups)
        assert [len(of_group) for of_group in scores] == [2, 4, 1]
        for found, wanted in zip(scores, expected, strict=True):
            assert found == pytest.approx(wanted, abs=1e-5)


def test_question_precedes_the_answer():
    earlier = [{"role": "user", "content": "Is it day?"}, {"role": "assistant", "content": "yes"}]
    assert candidate_text([*earlier, QUESTION], "3") == "How many ships are there? 3"
    assert candidate_text([], "two tanks") == "two tanks"


def test_a_missing_score_has_a_reason_and_does_not_affect_other_images(scorer, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    groups = [
        ScoringGroup(str(broken), [], TEXTS[:2]),
        ScoringGroup(images[0], [], TEXTS[:1]),
        ScoringGroup(None, [], TEXTS[:1]),
    ]
    bad, good, text_only = scorer.score_or_reason(groups)
    assert [score.value for score in bad] == [None, None]
    assert {score.reason for score in bad} == {"zero_bytes"}
    assert good[0].value == pytest.approx(scorer.score([groups[1]])[0][0], abs=1e-6)
    assert (text_only[0].value, text_only[0].reason) == (None, "no_image")


def test_a_cosine_that_is_not_finite_is_a_missing_score(clip, images):
    with torch.no_grad():
        broken = new_clip(clip.tokenizer, image_size=32, seed=0).eval()
        broken.text_projection.weight.fill_(float("nan"))
    scores = ClipScorer(Clip(broken, clip.tokenizer, clip.image_processor, "v"), 4).score_or_reason(
        [ScoringGroup(images[0], [], TEXTS[:1])]
    )
    assert (scores[0][0].value, scores[0][0].reason) == (None, "not_finite")


def test_an_image_of_several_groups_is_opened_once(scorer, images, monkeypatch):
    opened: list[str] = []
    original = clip_score.open_image

    def counting(reference: str) -> Image.Image:
        opened.append(reference)
        return original(reference)

    monkeypatch.setattr(clip_score, "open_image", counting)
    scorer.score([ScoringGroup(images[0], [], [text]) for text in TEXTS] + [ScoringGroup(images[1], [], TEXTS)])
    assert sorted(opened) == sorted(images[:2])


def test_long_text_is_cut_to_the_context_counted_and_noted(scorer, images):
    long = "several houses near a river " * 100
    (found,) = scorer.score_or_reason([ScoringGroup(images[0], [], [long, long + "and a tank", "a red ship"])])
    assert scorer.truncated == 2
    assert [score.note for score in found] == ["text_cut", "text_cut", None]
    assert found[0].value == pytest.approx(found[1].value, abs=1e-6)
    assert found[0].value != pytest.approx(found[2].value, abs=1e-6)


def test_windowed_mean_is_the_mean_of_the_windows_unit_vectors(clip, images):
    """By hand: 100 words in windows of 75 tokens, each between the start and end tokens."""
    words = TEXTS[2].split() * 20
    long = " ".join(words)
    scorer = ClipScorer(clip, 3, "windowed_mean")
    (found,) = scorer.score_or_reason([ScoringGroup(images[0], [], [long, TEXTS[0]])])
    ids = clip.tokenizer(long, add_special_tokens=False)["input_ids"]
    windows = [ids[start : start + 75] for start in range(0, len(ids), 75)]
    assert len(windows) > 1
    start, end = clip.tokenizer.bos_token_id, clip.tokenizer.eos_token_id
    with torch.no_grad():
        parts = [clip.model.text_model(torch.tensor([[start, *window, end]])).pooler_output for window in windows]
        units = torch.nn.functional.normalize(clip.model.text_projection(torch.cat(parts)), dim=-1)
        text = torch.nn.functional.normalize(units.mean(0), dim=-1)
        pixels = clip.image_processor(images=Image.open(images[0]), return_tensors="pt")["pixel_values"]
        pooled = clip.model.vision_model(pixel_values=pixels).pooler_output
        image = torch.nn.functional.normalize(clip.model.visual_projection(pooled)[0], dim=-1)
    assert found[0].value == pytest.approx(float(image @ text), abs=1e-5)
    assert found[1].value == pytest.approx(reference(clip, images[0], TEXTS[0]), abs=1e-5)
    assert [score.note for score in found] == [None, None] and scorer.truncated == 0


def test_image_vectors_are_cached_by_content(clip, images, tmp_path):
    seen: list[int] = []
    hook = clip.model.vision_model.register_forward_hook(lambda _, __, output: seen.append(len(output.pooler_output)))
    first = ClipScorer(clip, 8, embeddings=tmp_path / "vectors").score([ScoringGroup(images[0], [], TEXTS[:2])])
    copy = tmp_path / "another name.png"
    copy.write_bytes(Path(images[0]).read_bytes())
    groups = [ScoringGroup(str(copy), [], TEXTS), ScoringGroup(images[1], [], TEXTS[:1])]
    second = ClipScorer(clip, 8, embeddings=tmp_path / "vectors").score(groups)
    hook.remove()
    assert sum(seen) == 2  # one forward pass for each of the two contents
    assert second[0][:2] == pytest.approx(first[0], abs=1e-6)
    other = Clip(clip.model, clip.tokenizer, clip.image_processor, "other-version")
    hook = clip.model.vision_model.register_forward_hook(lambda _, __, output: seen.append(len(output.pooler_output)))
    ClipScorer(other, 8, embeddings=tmp_path / "vectors").score([ScoringGroup(images[0], [], TEXTS[:1])])
    hook.remove()
    assert sum(seen) == 3  # another model's vectors are not used


def test_a_siglip_scores_its_own_similarity(clip, images, tmp_path):
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**tower, "vocab_size": len(clip.tokenizer), "max_position_embeddings": 16},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
    )
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(tmp_path / "siglip")
    clip.tokenizer.save_pretrained(tmp_path / "siglip")
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "siglip")
    found = ClipScorer.load(tmp_path / "siglip", Compute(device="cpu"), 8).score_or_reason(
        [ScoringGroup(images[0], [], TEXTS)]
    )
    model = SiglipModel.from_pretrained(tmp_path / "siglip")
    tokens = clip.tokenizer(TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    pixels = SiglipImageProcessor.from_pretrained(tmp_path / "siglip")(Image.open(images[0]), return_tensors="pt")
    with torch.no_grad():
        output = model(input_ids=tokens["input_ids"], pixel_values=pixels["pixel_values"])
    expected = (output.image_embeds @ output.text_embeds.T)[0].tolist()
    assert [score.value for score in found[0]] == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == len(TEXTS)
