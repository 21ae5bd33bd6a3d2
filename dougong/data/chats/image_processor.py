"""A family's own image processor: from an image to the patches that its tower sees. Imports no
torch.

It is transformers' class for Pillow. The one for torchvision resizes by other arithmetic, so it is
never taken, whatever is installed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dougong.data.chats.image_files import decode_image
from dougong.data.chats.parts import ImageName
from dougong.data.samples.image_batch import Patches
from dougong.errors import DataError

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Where a folder says what its image processor is, in the order in which transformers looks."""
_REMEDY = f"copy {PROCESSOR_FILES[0]} from the model's own folder"
_MOST_WORDS = 160
_TRIED = 64
"""Pixels of each side of the image that is tried."""
_GIVEN = {"pixel_values", "image_grid_thw"}
_SIZES = {"merge_size": "spatial_merge_size", "patch_size": "patch_size"}
_SIZES |= {"temporal_patch_size": "temporal_patch_size"}


@dataclass(frozen=True)
class ImageProcessor:
    """`folder`: whose it is; `model`: transformers' processor."""

    folder: Path
    model: Any

    @property
    def digest(self) -> str:
        """Of its class and settings."""
        identity = [type(self.model).__name__, self.model.to_json_string()]
        return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()

    def patches(self, name: ImageName, data: bytes) -> Patches:
        """Of an image's bytes. Raises DataError where it cannot be decoded, or has a shape that the
        processor does not take."""
        image = decode_image(name, data)
        try:
            made = self.model(images=[image], return_tensors="np")
        except ValueError as error:
            raise DataError(
                f"{name.words}: {image.width} x {image.height} pixels; the image processor of "
                f"{self.folder} does not take it ({error}); cut the image, or take the row out"
            ) from error
        time, height, width = made["image_grid_thw"][0].tolist()
        return Patches(made["pixel_values"].astype(np.float32, copy=False), (time, height, width))

    def num_tokens(self, grid: tuple[int, int, int]) -> int:
        """Placeholders of an image: its patches, merged `merge_size` x `merge_size` to one."""
        return int(np.prod(grid)) // int(self.model.merge_size) ** 2


def open_processor(folders: Sequence[Path], vision: Any) -> ImageProcessor:
    """That of the first folder that has one. `vision`: the configuration of the tower that it is
    for. Raises DataError where there is none, or where it cuts images otherwise than the tower
    takes them."""
    folder = processor_folder(folders)
    if folder is None:
        raise DataError(
            f"data.chat: {_none_of(folders)} a {PROCESSOR_FILES[0]}, which says how images are "
            "cut; copy it from the model's own folder into the tokenizer's"
        )
    _refuse_no_object(folder)
    from transformers import AutoImageProcessor

    try:
        model = AutoImageProcessor.from_pretrained(
            str(folder), backend="pil", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # a setting of the wrong type fails in its own way
        raise DataError(
            f"data.chat: {folder}: transformers finds no image processor here "
            f"({_shortly(error)}); {_REMEDY}"
        ) from error
    _check(folder, model, vision)
    _try(folder, model)
    return ImageProcessor(folder, model)


def _none_of(folders: Sequence[Path]) -> str:
    names = list(dict.fromkeys(str(one) for one in folders))
    if len(names) == 1:
        return f"{names[0]} does not have"
    return f"neither {' nor '.join(names)} has"


def _refuse_no_object(folder: Path) -> None:
    """DataError for settings that are no JSON object, which transformers takes apart anyway."""
    for file in (folder / name for name in PROCESSOR_FILES):
        if not file.is_file():
            continue
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"data.chat: {file}: is not JSON ({error}); {_REMEDY}") from error
        if not isinstance(found, dict):
            raise DataError(
                f"data.chat: {file}: holds {json.dumps(found)[:60]}, where settings are a JSON "
                f"object; {_REMEDY}"
            )


def _shortly(error: Exception) -> str:
    """What an error says, without the lists that some go on with."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first if len(first) <= _MOST_WORDS else f"{first[:_MOST_WORDS]} ..."


def _try(folder: Path, model: Any) -> None:
    """Settings with which no image becomes numbers are no fault of an image."""
    from PIL import Image

    values = np.zeros((_TRIED, _TRIED, 3), dtype=np.uint8)
    values[::2] = 255
    try:
        with np.errstate(all="ignore"):
            made = model(images=[Image.fromarray(values)], return_tensors="np")
    except Exception as error:
        raise DataError(
            f"data.chat: {folder}: {type(model).__name__} cuts no image with its settings here "
            f"({_shortly(error)}); {_REMEDY}"
        ) from error
    if not np.isfinite(made["pixel_values"]).all():
        raise DataError(
            f"data.chat: {folder}: {type(model).__name__} makes pixels that are no finite numbers "
            f"(image_mean {model.image_mean}, image_std {model.image_std}, rescale_factor "
            f"{model.rescale_factor}); {_REMEDY}"
        )


def processor_folder(folders: Sequence[Path]) -> Path | None:
    """The first that has an image processor."""
    for folder in folders:
        if any((folder / name).is_file() for name in PROCESSOR_FILES):
            return folder
    return None


def _check(folder: Path, model: Any, vision: Any) -> None:
    name = type(model).__name__
    if set(model.model_input_names) != _GIVEN:
        raise DataError(
            f"data.chat: {folder}: {name} gives {', '.join(model.model_input_names)}, where the "
            f"model takes {', '.join(sorted(_GIVEN))}; {_REMEDY}"
        )
    for ours, theirs in _SIZES.items():
        found, asked = getattr(model, ours), getattr(vision, theirs)
        if found != asked:
            raise DataError(
                f"data.chat: {folder}: {name} has {ours} {found}, where the model's vision_config "
                f"has {theirs} {asked}; give the model's own {PROCESSOR_FILES[0]}, or set that key"
            )
    least, most = (getattr(model.size, key, None) for key in ("shortest_edge", "longest_edge"))
    if least and most and least > most:
        raise DataError(
            f"data.chat: {folder}: {name} makes images of at least {least} (size.shortest_edge) "
            f"and at most {most} pixels (size.longest_edge); change the two, or {_REMEDY}"
        )
