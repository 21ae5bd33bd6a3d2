"""What a message holds: a text, or parts of text and images. Imports no torch.

Parts are written as transformers' processors take them, {"type": "image", "image": PATH}, or as
OpenAI's interface has it, {"type": "image_url", "image_url": {"url": ...}}; or a row names its
images beside its messages, `images: [PATH, ...]`, and its parts do not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dougong.errors import DataError

IMAGE: Mapping[str, str] = {"type": "image"}
"""What a chat template is given of an image."""
_KINDS = ("text", "image", "image_url")
_INLINE, _FILE = "data:", "file://"
_SIZES = ("min_pixels", "max_pixels", "resized_height", "resized_width")
"""Keys by which other programs cut one image otherwise than the processor says."""
_NAMES = ("image", "path", "url", "image_url")


@dataclass(frozen=True)
class ImageName:
    """An image as a row names it. `file`: of the chats; `part`: its line and part there; `name`: a
    path, from the file's folder where it is relative, or a `data:` URL with its bytes."""

    file: Path
    part: str
    name: str

    @property
    def path(self) -> Path:
        return self.file.parent / Path(self.name).expanduser()

    @property
    def is_inline(self) -> bool:
        return _is_inline(self.name)

    @property
    def words(self) -> str:
        """Where it is named and what it is called, for whoever must mend it."""
        called = "its data: URL" if self.is_inline else self.path
        return f"{self.file}: {self.part}: {called}"


def _is_inline(name: str) -> bool:
    return name[: len(_INLINE)].lower() == _INLINE


@dataclass(frozen=True)
class Parts:
    """Of one message, in order: texts, and IMAGE where one lies. `images`: what they are called,
    each with its place; None of one that the row names."""

    parts: tuple[Mapping[str, str], ...]
    images: tuple[tuple[str, str | None], ...]


def read_parts(place: str, found: list[Any]) -> Parts:
    """Raises DataError for a part that is neither text nor an image."""
    if not found:
        raise DataError(f"{place}: is an empty list; give a part, or a text")
    parts, images = [], []
    for number, part in enumerate(found):
        here = f"{place}[{number}]"
        if _kind(here, part) == "text":
            parts.append({"type": "text", "text": _text(here, part)})
        else:
            parts.append(dict(IMAGE))
            images.append((here, _image(here, part)))
    return Parts(tuple(parts), tuple(images))


def _kind(place: str, part: Any) -> str:
    if not isinstance(part, dict):
        raise DataError(
            f'{place}: must be {{"type": "text", "text": ...}} or {{"type": "image", "image": '
            f"PATH}}, not {type(part).__name__}"
        )
    kind = part.get("type")
    if kind not in _KINDS:
        raise DataError(
            f"{place}.type: {json.dumps(kind)} is none of {', '.join(_KINDS)}; take the part out, "
            "or the row"
        )
    return str(kind)


def _text(place: str, part: Mapping[str, Any]) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        raise DataError(f"{place}.text: holds {type(text).__name__}; it must be text")
    return text


def _image(place: str, part: Mapping[str, Any]) -> str | None:
    given = {key: part[key] for key in _NAMES if part.get(key) is not None}
    if len(given) > 1:
        raise DataError(f"{place}: names an image by {' and by '.join(given)}; leave one")
    _refuse_sizes(place, part)
    for key, name in given.items():
        return _name(f"{place}.{key}", name)
    return None


def _refuse_sizes(place: str, part: Mapping[str, Any]) -> None:
    for key in _SIZES:
        if part.get(key) is not None:
            raise DataError(
                f"{place}.{key}: is not read: all images are cut as the model's "
                "preprocessor_config.json says; set `size` there, and take the key out"
            )


def _name(place: str, found: Any) -> str:
    name = found
    if isinstance(found, Mapping):
        _refuse_sizes(place, found)
        if found.get("bytes"):
            raise DataError(
                f"{place}.bytes: is not read; write the bytes into a file and give its path, or "
                'write them as "data:image/png;base64,..."'
            )
        name = found.get("url") or found.get("path")
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(
            f"{place}: holds {json.dumps(found)[:60]}; it must be the path of an image, which "
            "counts from the chat file's folder"
        )
    if name.lower().startswith(_FILE):
        raise DataError(
            f"{place}: {name[:80]}: is a URL of a file on this machine; give its path, "
            f"{unquote(name[len(_FILE) :])[:80]}"
        )
    if "://" in name and not _is_inline(name):
        raise DataError(
            f"{place}: {name[:80]}: is a URL, and nothing is fetched while a model is trained; "
            "download it and give its path, which counts from the chat file's folder"
        )
    return name


def named_images(
    place: str, images: list[tuple[str, str | None]], of_row: Any, file: Path
) -> Iterator[ImageName]:
    """The images of a row in order. `images`: of all its parts; `of_row`: its own list, for the
    parts that have no name. Raises DataError where the two do not fit."""
    beside = of_row or []
    if not isinstance(beside, list):
        raise DataError(f"{place}: images: holds {type(of_row).__name__}; it must be a list")
    names = [_name(f"{place}: images[{number}]", one) for number, one in enumerate(beside)]
    unnamed = [here for here, name in images if name is None]
    if names and not images:
        raise DataError(
            f"{place}: images names {len(names)}, but no message has a part of type image (an "
            '<image> within a text is none); write each content as parts: [{"type": "image"}, '
            '{"type": "text", "text": ...}]'
        )
    if len(unnamed) != len(names):
        raise DataError(
            f"{place}: {len(unnamed)} parts of type image have no name ({_first(unnamed)}), and "
            f"images beside the messages names {len(names)}; give each part its path, "
            '{"type": "image", "image": PATH}, or as many names as parts'
        )
    rest = iter(names)
    for here, name in images:
        part = here.removeprefix(f"{file}: ")
        yield ImageName(file, part, next(rest) if name is None else name)


def _first(unnamed: list[str]) -> str:
    return f"the first: {unnamed[0].rpartition(': ')[2]}" if unnamed else "none"
