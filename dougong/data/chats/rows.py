"""Files of chats: a JSON object a line, {"messages": [...], "tools": [...], "images": [...]}.
Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.data.chats.parts import ImageName, named_images, read_parts
from dougong.data.documents.text import matching_files, open_file
from dougong.errors import DataError
from dougong.models.stored.headers import LFS_POINTER

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who may speak; what only the assistant says is learnt."""
LEARNT = "assistant"
_MAY_NAME_IMAGES = re.compile(rb"image|\\u00")
"""What the line of a row with images holds: the word, or an escape that may be part of it."""


@dataclass(frozen=True)
class Chat:
    """One row. `place`: its file and line, for whoever must mend it. A message's content is a text,
    or a list of parts (`data.chats.parts`); `images`: those of all its parts, in order."""

    place: str
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    images: tuple[ImageName, ...] = ()


def chat_files(name: str) -> list[Path]:
    """The file of this name, or those that match it as a glob, sorted. Raises DataError where there
    is none."""
    found = matching_files(Path(name).expanduser())
    if not found:
        raise DataError(
            f"data.chat: {name}: no such file, and no file matches it as a glob; check the path"
        )
    return found


def read_chats(files: list[Path]) -> Iterator[Chat]:
    """All rows of the files, in order; empty lines are none. Raises DataError with file and line
    for a row that is no chat."""
    for file in files:
        yield from _chats_of(file)


def find_images(files: list[Path]) -> Iterator[ImageName]:
    """The images of all rows, in order. Rows that cannot have one are not parsed."""
    for file in files:
        for chat in _chats_of(file, _MAY_NAME_IMAGES):
            yield from chat.images


def _chats_of(file: Path, with_this: re.Pattern[bytes] | None = None) -> Iterator[Chat]:
    with open_file(file) as opened:
        for number, line in enumerate(opened, 1):
            if line.strip() and (with_this is None or with_this.search(line)):
                yield _chat(file, number, line)


def _chat(file: Path, number: int, line: bytes) -> Chat:
    place = f"{file}: line {number}"
    if line.startswith(LFS_POINTER):
        raise DataError(
            f"{place}: is a git-lfs pointer, not the file itself: run `git lfs pull` there"
        )
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error.reason}); convert the file") from error
    except ValueError as error:
        raise DataError(
            f"{place}: not JSON ({error}); a file of chats has one JSON object a line"
        ) from error
    if not isinstance(row, dict) or "messages" not in row:
        keys = f"the keys {', '.join(row)}" if isinstance(row, dict) else type(row).__name__
        raise DataError(f'{place}: holds {keys}; a row is {{"messages": [...], "tools": [...]}}')
    tools = row.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"{place}: tools: must be a list of JSON schemas of functions")
    messages, images = _with_parts(place, _messages(place, row["messages"]))
    named = named_images(place, images, row.get("images"), file)
    return Chat(place, messages, tuple(tools), tuple(named))


def _with_parts(
    place: str, messages: list[dict[str, Any]]
) -> tuple[tuple[Mapping[str, Any], ...], list[tuple[str, str | None]]]:
    """The messages with their parts as templates take them, and the images among these."""
    made: list[Mapping[str, Any]] = []
    images: list[tuple[str, str | None]] = []
    for number, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list):
            read = read_parts(f"{place}: messages[{number}].content", content)
            images += read.images
            message = {**message, "content": list(read.parts)}
        made.append(message)
    return tuple(made), images


def _messages(place: str, found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not found:
        raise DataError(f"{place}: messages: must be a list with a message in it")
    for number, message in enumerate(found):
        fault = _fault(message)
        if fault:
            raise DataError(f"{place}: messages[{number}]{fault}")
    if not any(message["role"] == LEARNT for message in found):
        raise DataError(
            f"{place}: no message is the {LEARNT}'s, so nothing of this chat would be learnt; "
            "take the row out, or check its roles"
        )
    return found


def _fault(message: Any) -> str:
    """What is wrong with a message, with its place in it; empty where nothing is."""
    if not isinstance(message, dict):
        return f": must be an object with role and content, not {type(message).__name__}"
    role = message.get("role")
    if role not in ROLES:
        return f".role: {json.dumps(role)} is none of {', '.join(ROLES)}; rename it"
    content = message.get("content")
    if content is None and (message.get("tool_calls") or message.get("reasoning_content")):
        return ""
    if not isinstance(content, str | list):
        what = "is missing" if content is None else f"holds {type(content).__name__}"
        return f".content: {what}; it must be text, or a list of parts (without tool_calls)"
    return ""
