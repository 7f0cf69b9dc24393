"""A VLM of a family that is only asked, never trained, generates text with its own processor and template."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from rsqa_pipeline.models.any_vlm import ProcessorVlm, load_any_vlm
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.profile.types import Sampling

WORDS = ["<pad>", "</s>", "<image>", "<unk>", "USER", "ASSISTANT", ":", "what", "is", "this", "?", "a", "port", "ship"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }} : {% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<image> {% else %}{{ p['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)


@pytest.fixture(scope="module")
def vip_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vip_llava")
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = VipLlavaConfig(
        vision_config=CLIPVisionConfig(**size, image_size=16, patch_size=8, projection_dim=16),
        text_config=LlamaConfig(**size, vocab_size=len(WORDS), num_key_value_heads=2),
        image_token_index=WORDS.index("<image>"),
        vision_feature_layers=[-1, -2],
    )
    VipLlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_a_vlm_answers_chats_of_different_lengths_deterministically(vip_llava: Path) -> None:
    vlm = load_any_vlm(vip_llava, Compute(device="cpu"))
    assert isinstance(vlm, ProcessorVlm)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    chats = [[{"role": "user", "content": text}] for text in ("what is this ?", "<image> a </s> ship", "port")]
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=6)
    texts = [vlm.generate(chats, [image] * 3, sampling, 6, seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2] and len(texts[0]) == 3
    assert len(vlm.generate(chats, [None] * 3, None, 4, 0)) == 3
