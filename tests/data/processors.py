"""transformers' processors of families that see, made without their part for videos, which asks for torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def processor_of(family: str, folder: Path) -> Any:
    """That of a folder with a tokenizer and an image processor."""
    from transformers import AutoImageProcessor, AutoTokenizer
    from transformers.models.glm4v.processing_glm4v import Glm4vProcessor
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    kind = {"qwen3_vl_moe": Qwen3VLProcessor, "glm4v_moe": Glm4vProcessor, "qwen3_5_moe": Qwen3VLProcessor}[family]
    # Its own check would load the class for videos.
    without_videos = type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda *_: None})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.image_token = "<|image_pad|>"
    images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return without_videos(images, tokenizer, None, chat_template=tokenizer.chat_template)
