"""Loads a VLM, a CLIP or an embedding model from a local folder or a hub id, which is first downloaded to a folder.

What a folder must hold is in `model_folder`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2VLProcessor,
)
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.bounded_trial import MAX_TRIAL_BYTES, MAX_TRIAL_SECONDS, ends_in_child
from rsqa_pipeline.models.families import ChatForm, chat_form_of, family_named
from rsqa_pipeline.models.model_folder import (
    check_folder,
    check_size,
    model_type,
    read_config,
    reading,
    weight_files,
)
from rsqa_pipeline.profile import Compute

CLIP_FAMILIES = ("clip",)
SIGLIP_FAMILIES = ("siglip",)
_WANTED_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]


class QwenVLProcessor(Qwen2VLProcessor):
    """Qwen's image and text processor without its video part.

    The video part needs torchvision, which cannot be imported with a CPU build of torch. This project uses no video.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token = "<|image_pad|>"
        self.video_token = "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


@dataclass(frozen=True)
class Vlm:
    """A vision-language model ready to use, in evaluation mode."""

    model: Any
    """A `PreTrainedModel` with a generate method, e.g. `Qwen2VLForConditionalGeneration`."""
    processor: ProcessorMixin
    version: str


@dataclass(frozen=True)
class Clip:
    """A CLIP (or SigLIP) ready to use, in evaluation mode."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    image_processor: Any
    version: str


@dataclass(frozen=True)
class EmbeddingModel:
    """A model that embeds images or texts, in evaluation mode."""

    model: Any
    folder: Path
    """Folder of its image processor or tokenizer."""
    version: str


def load_vlm(
    path_or_id: str | Path, compute: Compute, revision: str | None = None, trust_remote_code: bool = False
) -> Vlm:
    """Loads a model of one of the `families.FAMILIES` with its processor onto the profile's device.

    Raises:
        ModelError: no such model, another family, only pickles, or weights that do not match the configuration.
    """
    folder = local_folder(path_or_id, revision, trust_remote_code)
    family_named(_family(folder, trust_remote_code), folder)
    model = load_weights(AutoModelForImageTextToText, folder, compute, trust_remote_code)
    processor = load_processor(folder)
    _stop_at_end_of_turn(model, processor)
    return Vlm(model, processor, weights_version(folder))


def _stop_at_end_of_turn(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Adds the token that ends an answer to those that end a generation; some checkpoints do not list it."""
    tokenizer, config = processor.tokenizer, model.generation_config
    end = tokenizer.convert_tokens_to_ids(chat_form_of(processor).end_token(tokenizer))
    found = config.eos_token_id
    stops = found if isinstance(found, list) else [] if found is None else [found]
    if end not in stops:
        config.eos_token_id = [*stops, end]


def load_clip(
    path_or_id: str | Path, compute: Compute, revision: str | None = None, trust_remote_code: bool = False
) -> Clip:
    """Loads a CLIP or a SigLIP with its tokenizer and image processor onto the profile's device.

    Raises:
        ModelError: like `load_vlm`.
    """
    folder = local_folder(path_or_id, revision, trust_remote_code)
    _check_family(folder, CLIP_FAMILIES + SIGLIP_FAMILIES, trust_remote_code)
    model = load_weights(AutoModel, folder, compute, trust_remote_code)
    with reading(folder, "has a tokenizer or image processor that cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        image_processor = AutoImageProcessor.from_pretrained(folder)
    return Clip(model, tokenizer, image_processor, weights_version(folder))


def load_embedding_model(path_or_id: str | Path, compute: Compute) -> EmbeddingModel:
    """Loads any image or text embedding model that transformers supports without remote code.

    Raises:
        ModelError: no such model, a CLIP, only pickles, an unknown model type, or weights that do not match the
            configuration.
    """
    folder = local_folder(path_or_id)
    family = _family(folder, trust_remote_code=False)
    if family in CLIP_FAMILIES:
        raise ModelError(f"{folder} is a {family}; load it with load_clip")
    return EmbeddingModel(
        load_weights(AutoModel, folder, compute, trust_remote_code=False), folder, weights_version(folder)
    )


def is_clip(path_or_id: str | Path) -> bool:
    """Whether a checkpoint's configuration is that of a CLIP. Raises ModelError if there is no such checkpoint."""
    return _family(local_folder(path_or_id), trust_remote_code=False) in CLIP_FAMILIES


def load_processor(path_or_id: str | Path) -> ProcessorMixin:
    """The processor of a VLM or score model: chat template, tokenizer, image processor; for Qwen-VL without video.

    Raises:
        ModelError: no such checkpoint, an unknown family, or no such processor.
    """
    folder = local_folder(path_or_id)
    form = family_named(model_type(read_config(folder)), folder).chat
    processor_class = QwenVLProcessor if form.processor is Qwen2VLProcessor else form.processor
    with reading(folder, "has a processor that cannot be read"):
        processor: ProcessorMixin = processor_class.from_pretrained(folder)
        tokenizer = processor.tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if form.template is not None and not _ends_answers(processor, form):
            processor.chat_template = form.template
        if processor.chat_template is None:
            raise ModelError(f"{folder}: the processor has no chat template; add one as chat_template.jinja")
        try_template(processor, folder)
    return processor


def _ends_answers(processor: ProcessorMixin, form: ChatForm) -> bool:
    template = processor.chat_template or ""
    return "eos_token" in template or form.end_token(processor.tokenizer) in template


_TRIED_CHATS = (
    [("user", "?")],
    [("user", "?"), ("assistant", "!")],
    [("system", "."), ("user", "?"), ("assistant", "!"), ("user", "?"), ("assistant", "!"), ("user", "?")],
)
"""Role and text of the turns of the chats that a template is tried on."""


def try_template(processor: ProcessorMixin, folder: Path) -> None:
    """Renders one question, so that a chat template that the sandbox refuses is found before any work.

    It first renders chats of all shapes that occur (one question, an answer, several turns; with and without an image
    or a generation prompt) in a child process: the sandbox limits neither nested loops nor the length of a text. A
    template that has no end only for certain words is not found.

    Raises:
        ModelError: the template takes too long, or too much memory.
    """

    def render(turns: Sequence[tuple[str, str]], has_image: bool, add_generation_prompt: bool) -> None:
        chat: list[dict[str, Any]] = [
            {"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns
        ]
        if has_image:
            next(turn for turn in chat if turn["role"] == "user")["content"].insert(0, {"type": "image"})
        processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=add_generation_prompt)

    def render_all() -> None:
        for turns, has_image, prompt in product(_TRIED_CHATS, (False, True), (True, False)):
            try:
                render(turns, has_image, prompt)
            except MemoryError:
                raise
            except Exception:
                continue  # a template may refuse roles that it does not know

    if not ends_in_child(render_all):
        raise ModelError(
            f"{folder}: the chat template needs more than {MAX_TRIAL_SECONDS} s or {MAX_TRIAL_BYTES // 2**20} MiB for "
            "short chats; use the template that the model was published with"
        )
    render(_TRIED_CHATS[0], has_image=False, add_generation_prompt=True)


def local_folder(path_or_id: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """Local folder of the checkpoint; a hub id ("owner/name") is downloaded once, without pickles.

    Raises:
        ModelError: no such folder, no such hub id, or no connection.
    """
    folder = Path(path_or_id)
    if folder.is_dir():
        return folder
    hint = "Give an existing folder in save_pretrained layout, or a hub id like Qwen/Qwen2-VL-2B-Instruct."
    if folder.is_absolute() or len(folder.parts) != 2:
        raise ModelError(f"no model folder {path_or_id}. {hint}")
    wanted = [*_WANTED_FILES, "*.py"] if trust_remote_code else _WANTED_FILES
    try:
        return Path(snapshot_download(str(path_or_id), revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"{path_or_id} is neither a folder nor a model on the hub: {error} {hint}") from error


def weights_version(folder: Path) -> str:
    """Hex sha256 over the names and bytes of the folder's safetensors files, sorted by name.

    Raises:
        ModelError: there are none.
    """
    digest = hashlib.sha256()
    for file in weight_files(folder):
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def base_model(folder: Path, kind: Literal["vlm", "clip", "scorer"]) -> str:
    """Local folder of the base model that ``<kind>.json`` in a ``base_models`` output names.

    Example of that file: ``{"path": "vlm", "version": "5be1c0.."}``; a hub model also has ``"revision"``.

    Raises:
        ModelError: the file is missing, or the weights have changed since it was written.
    """
    file = folder / f"{kind}.json"
    if not file.is_file():
        raise ModelError(f"no {file}; materialize the asset base_models first")
    entry = json.loads(file.read_text(encoding="utf-8"))
    local = folder / entry["path"]
    found = local if local.is_dir() else local_folder(entry["path"], entry.get("revision"))
    if weights_version(found) != entry["version"]:
        raise ModelError(
            f"{found}: weights are not the version {entry['version'][:12]} of {file}; materialize base_models again"
        )
    return str(found)


def device_of(compute: Compute) -> torch.device:
    """The device that the profile requests; "auto" uses a GPU if one is available.

    Raises:
        ModelError: the profile requests "cuda", but no GPU is available.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("compute.device is 'cuda', but torch sees no GPU; use 'auto' or 'cpu'")
    if compute.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(compute.device)


def _check_family(folder: Path, families: tuple[str, ...], trust_remote_code: bool) -> None:
    family = _family(folder, trust_remote_code)
    if family not in families:
        raise ModelError(f"{folder}: model type {family!r}; supported here: {', '.join(families)}")


def _family(folder: Path, trust_remote_code: bool) -> str:
    read_config(folder)
    weight_files(folder)
    with reading(folder / "config.json"):
        return str(AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).model_type)


def load_weights(family: Any, folder: Path, compute: Compute, trust_remote_code: bool) -> PreTrainedModel:
    """The weights in a folder as a model of class ``family``, on the profile's device, in evaluation mode.

    Raises:
        ModelError: only pickles, another class of model, or weights that do not match the configuration.
    """
    stored = check_folder(folder)
    with reading(folder, "has weights that cannot be read"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            check_size(folder, family.from_config(config, trust_remote_code=trust_remote_code), stored)
        model, report = family.from_pretrained(
            folder,
            dtype=getattr(torch, compute.dtype),
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    # transformers initializes missing tensors randomly and continues; such a model is unusable
    if report["missing_keys"]:
        raise ModelError(f"{folder}: weights lack {', '.join(sorted(report['missing_keys'])[:5])}")
    return model.to(device_of(compute)).eval()
