"""Files of chats: a JSON object a line, {"messages": [...], "tools": [...], "images": [...]}.
Imports no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dougong.data.chats.faults import Faults
from dougong.data.chats.messages import (
    fault_beside_content,
    is_learnt,
    other_keys,
    thoughts_of,
    tool_fault,
    with_objects,
)
from dougong.data.chats.parts import ImageName, named_images, read_parts
from dougong.data.chats.row_json import read_row
from dougong.data.documents.text import named_files, open_file
from dougong.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who may speak; what only the assistant says is learnt."""
LEARNT = "assistant"
_MAY_NAME_IMAGES = re.compile(rb"image|\\u00")
"""What the line of a row with images holds: the word, or an escape that may be part of it."""


@dataclass(frozen=True)
class Chat:
    """One row. `place`: its file and line, for whoever must mend it. A message's content is a text,
    or a list of parts (`data.chats.parts`); `images`: those of all its parts, in order;
    `other_keys`: those of the row and its messages that are read nowhere but perhaps by a
    template."""

    place: str
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    images: tuple[ImageName, ...] = ()
    other_keys: tuple[str, ...] = ()


def chat_beginning(chat: Chat, count: int) -> Chat:
    """Its first messages, with their images."""
    messages = chat.messages[:count]
    num_images = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            num_images += sum(part["type"] != "text" for part in content)
    return replace(chat, messages=messages, images=chat.images[:num_images])


def chat_files(name: str) -> list[Path]:
    """The file of this name, or those that match it as a glob, sorted. Raises DataError where there
    is none."""
    return named_files("data.chat", name, "*.jsonl", "check the path")


@dataclass
class ReadFiles:
    """Files that are read once, in order, and the digest of what was read."""

    files: list[Path]
    _total: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def lines(self) -> Iterator[tuple[Path, str, bytes]]:
        """Every line that is not empty, with its file and its place."""
        for file in self.files:
            digest = hashlib.blake2b(digest_size=16)
            for number, line in enumerate(_lines(file), 1):
                digest.update(line)
                if line.strip():
                    yield file, f"{file}: line {number}", line
            self._total.update(digest.digest())

    def refuse_change(self, digest: str) -> None:
        """DataError where what was read is not what `content_digest` has seen before."""
        if self._total.hexdigest() != digest:
            raise DataError(
                f"data.chat: {self.files[0]}{', ...' if self.files[1:] else ''}: the file changed "
                "while it was read, so nothing of it is kept; start again when it is written"
            )


def _lines(file: Path) -> Iterator[bytes]:
    with open_file(file) as opened:
        yield from opened


def read_chats(source: ReadFiles, faults: Faults) -> Iterator[Chat]:
    """All rows of the files, in order; empty lines are none. A row that is no chat goes into
    `faults` with file and line."""
    for file, place, line in source.lines():
        try:
            chat = _chat(file, place, line)
        except DataError as error:
            faults.add(place, error)
        else:
            yield chat


def find_images(files: list[Path]) -> Iterator[ImageName]:
    """The images of all rows, in order. Rows that cannot have one are not parsed; what is wrong
    with others is told where the chats are read."""
    for file, place, line in ReadFiles(files).lines():
        if _MAY_NAME_IMAGES.search(line):
            with contextlib.suppress(DataError):
                yield from _chat(file, place, line).images


def _chat(file: Path, place: str, line: bytes) -> Chat:
    row = read_row(place, line)
    if not isinstance(row, dict) or "messages" not in row:
        keys = f"the keys {', '.join(row)}" if isinstance(row, dict) else type(row).__name__
        raise DataError(f'{place}: holds {keys}; a row is {{"messages": [...], "tools": [...]}}')
    tools = _tools(place, row)
    messages, images = _with_parts(place, _messages(place, row["messages"]))
    others = tuple(sorted({*other_keys(row)}))
    messages = tuple(with_objects(message) for message in messages)
    named = named_images(place, images, row.get("images"), file)
    return Chat(place, messages, tools, tuple(named), others)


def _tools(place: str, row: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    tools = row.get("tools") or []
    if not isinstance(tools, list):
        raise DataError(f"{place}: tools: must be a list of JSON schemas of functions")
    for number, tool in enumerate(tools):
        fault = tool_fault(tool)
        if fault:
            raise DataError(f"{place}: tools[{number}]{fault}")
    return tuple(tools)


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
    if not any(message["role"] == LEARNT and is_learnt(message) for message in found):
        raise DataError(
            f"{place}: no message is the {LEARNT}'s (with a weight that is not 0), so nothing of "
            "this chat would be learnt; take the row out, or check its roles"
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
    if content is None and (message.get("tool_calls") or thoughts_of(message)):
        return fault_beside_content(message)
    if not isinstance(content, str | list):
        what = "is missing" if content is None else f"holds {type(content).__name__}"
        return f".content: {what}; it must be text, or a list of parts (without tool_calls)"
    return fault_beside_content(message)
