"""Images, chats with images, and folders with image processors, made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.chats import Row, chat_tokenizer
from tests.checkpoint.saving import tiny_model
from tests.families import config_values

WITH_IMAGES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen's and GLM's have it."""
VISION_TOKENS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
PROCESSORS = {
    "qwen3_vl_moe": "Qwen2VLImageProcessorFast",
    "glm4v_moe": "Glm4vImageProcessor",
    "qwen3_5_moe": "Qwen2VLImageProcessorFast",
}
PATCH = 4


def picture(path: Path, width: int = 20, height: int = 28, seed: int = 0) -> Path:
    """A PNG of noise."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def seeing_folder(folder: Path, family: str, template: str = WITH_IMAGES) -> Path:
    """A tokenizer with a template for images, and the family's image processor beside it."""
    chat_tokenizer(folder, template, VISION_TOKENS)
    write_processor(folder, family)
    return folder


def write_processor(folder: Path, family: str) -> None:
    settings = {
        "image_processor_type": PROCESSORS[family], "patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2,
        "size": {"shortest_edge": 8 * 64, "longest_edge": 16 * 64},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def image_token(folder: Path, name: str = "<|image_pad|>") -> int:
    from transformers import AutoTokenizer

    return int(AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(name))


def seeing_values(family: str, folder: Path, vocab_size: int) -> dict[str, Any]:
    """The keys of `model.config` for a tiny model that sees with patches of PATCH pixels."""
    values = config_values(family, vocab_size=vocab_size)
    vision = {**values["vision_config"], "patch_size": PATCH, "temporal_patch_size": 2, "spatial_merge_size": 2}
    if family == "glm4v_moe":
        vision["image_size"] = 16
    tokens = {"image_token_id": image_token(folder), "video_token_id": image_token(folder, "<|video_pad|>")}
    return {**values, "vision_config": vision, **tokens}


def seeing_model(family: str, folder: Path, tokenizer: Path, vocab_size: int) -> dict[str, Any]:
    """The section `model` of a job. A tower of qwen3_5_moe is there in a model's folder alone, made in `folder`."""
    values = seeing_values(family, tokenizer, vocab_size)
    if family != "qwen3_5_moe":
        return {"family": family, "config": values}
    if not folder.exists():
        del values["intermediate_size"]
        tiny_model(family, architectures=["Qwen3_5MoeForConditionalGeneration"], **values).save_pretrained(folder)
    return {"path": str(folder)}


def look(*parts: str, answer: str = "it is noise") -> Row:
    """A chat about images: a part that ends with .png is one, all others are text."""
    made = [
        {"type": "image", "image": part} if part.endswith(".png") else {"type": "text", "text": part} for part in parts
    ]
    return {"messages": [{"role": "user", "content": made}, {"role": "assistant", "content": answer}]}
