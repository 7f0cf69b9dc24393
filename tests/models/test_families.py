"""Every family's parts exist in transformers' own models, and together they are what a trainer expects."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.families import FAMILIES, family_of


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A model of the family's default configuration, without memory."""
    with torch.device("meta"):
        found: PreTrainedModel = AutoModelForImageTextToText.from_config(AutoConfig.for_model(request.param))
    return found


def test_tower_connector_and_language_model_hold_all_weights_but_the_head(model: PreTrainedModel) -> None:
    family = family_of(model)
    vision = {id(weight) for module in family.vision_of(model) for weight in module.parameters()}
    connector = {id(weight) for module in family.connector_of(model) for weight in module.parameters()}
    language = {id(weight) for weight in model.model.get_submodule(family.language).parameters()}
    assert connector and connector <= vision and not vision & language
    assert {id(weight) for weight in model.model.parameters()} == vision | language


def test_lora_targets_are_the_linear_layers_of_the_language_model(model: PreTrainedModel) -> None:
    family = family_of(model)
    targets = {name for name, _ in model.named_modules() if re.fullmatch(family.lora_targets, name)}
    language = model.model.get_submodule(family.language)
    layers = {id(module) for module in language.layers.modules() if isinstance(module, nn.Linear)}
    assert {id(model.get_submodule(name)) for name in targets} == layers


def test_an_unknown_family_says_what_to_add() -> None:
    with torch.device("meta"):
        other = AutoModelForImageTextToText.from_config(AutoConfig.for_model("blip"))
    with pytest.raises(ModelError, match=r"model type 'blip' is unknown; known: qwen2_vl.*families.py"):
        family_of(other)
