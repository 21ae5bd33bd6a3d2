"""How the images of a job's chats become tokens: by the model's configuration and the image
processor of its folder. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dougong.data.chats.image_processor import open_processor
from dougong.data.chats.images import ImageForm
from dougong.data.chats.parts import ImageName
from dougong.data.chats.template import ChatTokenizer
from dougong.errors import DataError
from dougong.job.schema import Job
from dougong.models.configs.parts import is_composite
from dougong.models.library.classes import has_towers

SEE = ("qwen3_vl_moe", "glm4v_moe", "qwen3_5_moe")
"""Families whose images are learnt from: how each makes tokens and positions of them was held
against transformers."""
_WHICH = "qwen3_vl_moe, glm4v_moe, or a folder of qwen3_5_moe with its tower (model.path)"


def seen_tokens(job: Job, tokenizer: ChatTokenizer) -> dict[int, str]:
    """The ids that stand for parts of images and videos in a model that sees, as tokens that the
    tokenizer adds to its vocabulary, with what it calls them; no text of a chat may hold them."""
    return _added_tokens(job, tokenizer, ("image_token_id", "video_token_id"))


def image_tokens(job: Job, tokenizer: ChatTokenizer) -> dict[int, str]:
    """The same of images alone."""
    return _added_tokens(job, tokenizer, ("image_token_id",))


def _added_tokens(job: Job, tokenizer: ChatTokenizer, keys: Sequence[str]) -> dict[int, str]:
    from dougong.models.configs.load import load_config

    config = load_config(job.model, None)
    if config.model_type not in SEE or not has_towers(config):
        return {}
    added = tokenizer.model.added_tokens_decoder
    ids = [getattr(config, key, None) for key in keys]
    return {one: str(added[one]) for one in ids if isinstance(one, int) and one in added}


def open_image_form(job: Job, tokenizer: ChatTokenizer, first: ImageName) -> ImageForm:
    """That of a job whose chats have images, the first of which is `first`. Raises DataError for a
    model that sees none, and for a folder without an image processor."""
    from dougong.models.configs.load import load_config

    config = load_config(job.model, None)
    family = config.model_type
    if family not in SEE or not has_towers(config):
        raise DataError(f"{first.words}: {_sees_none(config)}")
    if job.data.packing:
        raise DataError(
            f"{first.words}: chats with images are not packed: the positions of an image are "
            "counted in a sequence that is one chat's; set data.packing: false"
        )
    if job.data.document_masks:
        raise DataError(
            f"{first.words}: with data.document_masks each sequence is given the positions of its "
            "tokens, and an image has others, of height and width; set data.document_masks: false"
        )
    path = Path(tokenizer.name).expanduser()
    folders = [path if path.is_dir() else path.parent]
    if job.model.path is not None:
        folder = Path(job.model.path).expanduser()
        if folder.resolve() != folders[0].resolve():
            folders.append(folder)
    processor = open_processor(folders, config.vision_config)
    token = int(config.image_token_id)
    return ImageForm(processor, token, _token_name(tokenizer, token))


def _sees_none(config: Any) -> str:
    family = config.model_type
    if is_composite(config):
        why = f"{family} is trained on texts alone here"
    else:
        why = f"{family} is a model of text, as it is built here"
    return (
        f"{why}, so nothing can be learnt from an image; take the rows with images out, or give a "
        f"model that sees: {_WHICH}"
    )


def _token_name(tokenizer: ChatTokenizer, token: int) -> str:
    """Raises DataError where the tokenizer does not have it."""
    name = tokenizer.model.convert_ids_to_tokens(token) if token < len(tokenizer.model) else None
    if name is None:
        raise DataError(
            f"data.chat: the model's image_token_id is {token}, and the tokenizer "
            f"{tokenizer.name} has {len(tokenizer.model)} ids; give the model's own tokenizer, or "
            "set model.config.image_token_id"
        )
    if token == tokenizer.padding:
        raise DataError(
            f"data.chat: the tokenizer {tokenizer.name} fills sequences up with {name} ({token}), "
            "which is the model's image_token_id; give it a pad_token of its own"
        )
    return str(name)
