"""Files of chats: every row that is none is refused by file, line and rule."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from dougong.data.chats.faults import Faults
from dougong.data.chats.rows import Chat, ReadFiles, chat_beginning, chat_files, read_chats
from dougong.data.documents.text import content_digest
from dougong.errors import DataError
from tests.chats import row, write_chats

GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
CALL = (
    '{"messages": [{"role": "assistant", "content": null, "tool_calls": [{"name": "f", "arguments": "{}"}]}], '
    '"tools": [{"type": "function", "function": {"name": "f"}}]}'
)


def rows_of(files: list[Path]) -> list[Chat]:
    faults = Faults()
    found = list(read_chats(ReadFiles(files), faults))
    faults.check()
    return found


def test_rows_are_read_in_order_with_their_places(tmp_path: Path) -> None:
    write_chats(tmp_path / "a.jsonl", [row("a", "b")])
    (tmp_path / "b.jsonl").write_text(f"\n{GOOD}\n\n{CALL}\n")
    found = rows_of(chat_files(f"{tmp_path}/*.jsonl"))
    assert [chat.place for chat in found] == [
        f"{tmp_path}/{p}" for p in ("a.jsonl: line 1", "b.jsonl: line 2", "b.jsonl: line 4")
    ]
    assert found[2].tools == ({"type": "function", "function": {"name": "f"}},) and [
        m["content"] for m in found[0].messages
    ] == ["a", "b"]


WRONG = [
    ("{", "line 2: not JSON"),
    ("[1]", 'line 2: holds list; a row is {"messages": [...], "tools": [...]}'),
    ('{"text": "a", "id": 1}', "line 2: holds the keys text, id; a row is"),
    ('{"messages": []}', "line 2: messages: must be a list with a message in it"),
    ('{"messages": ["a"]}', "line 2: messages[0]: must be an object with role and content, not str"),
    (
        '{"messages": [{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}]}',
        'line 2: messages[1].role: "bot" is none of system, developer, user, assistant, tool; rename it',
    ),
    ('{"messages": [{"content": "a"}]}', "line 2: messages[0].role: null is none of"),
    ('{"messages": [{"role": "user"}]}', "line 2: messages[0].content: is missing"),
    ('{"messages": [{"role": "user", "content": 1}]}', "line 2: messages[0].content: holds int; it must be text, or"),
    (
        '{"messages": [{"role": "user", "content": "a"}]}',
        "line 2: no message is the assistant's (with a weight that is not 0), so nothing of this",
    ),
    (GOOD.replace('"b"', '"b", "weight": 0'), "line 2: no message is the assistant's (with a weight that is not 0)"),
    (GOOD.replace('"b"', '"b", "weight": 0.5'), "line 2: messages[1].weight: 0.5; it must be 1 (learnt) or 0"),
    (GOOD[:-1] + ', "tools": [{}]}', "line 2: tools[0]: names no function"),
    (GOOD[:-1] + ', "tools": "search"}', "line 2: tools: must be a list of JSON schemas"),
    ("version https://git-lfs.github.com/spec/v1", "line 2: is a git-lfs pointer"),
]


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[case[1][:40] for case in WRONG])
def test_a_row_that_is_no_chat_is_refused_by_file_line_and_rule(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/a.jsonl: {message}")):
        rows_of([tmp_path / "a.jsonl"])


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"messages": "\xff\xfe"}\n')
    with pytest.raises(DataError, match=r"a.jsonl: line 1: not UTF-8"):
        rows_of([tmp_path / "a.jsonl"])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.chat: .*none.jsonl: no such file"):
        chat_files(f"{tmp_path}/none.jsonl")
    with pytest.raises(DataError, match="cannot be opened"):
        rows_of([tmp_path / "none.jsonl"])


def test_a_folder_is_told_to_be_named_by_a_glob(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder; name its files with a glob, such as .*/\*.jsonl"):
        chat_files(str(tmp_path))


def test_what_was_read_is_held_against_what_was_there_before(tmp_path: Path) -> None:
    files = [write_chats(tmp_path / name, [row("a", name)]) for name in ("a", "b")]
    for change, fails in ((None, False), ([row("a", "other")], True)):
        digest, source = content_digest(files), ReadFiles(files)
        lines = source.lines()
        next(lines)
        if change:
            write_chats(files[1], change)
        list(lines)
        if fails:
            with pytest.raises(DataError, match="changed while it was read, so nothing of it is kept"):
                source.refuse_change(digest)
        else:
            source.refuse_change(digest)


def test_keys_that_nothing_reads_are_kept_for_whoever_tells_of_them(tmp_path: Path) -> None:
    line = GOOD[:-1].replace('"b"', '"b", "train": false, "weight": 1') + ', "id": 3}'
    (tmp_path / "a.jsonl").write_text(line)
    (chat,) = rows_of([tmp_path / "a.jsonl"])
    assert chat.other_keys == ("id", "train")


def test_the_beginning_of_a_chat_has_its_images_alone(tmp_path: Path) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "?"}]
    messages = [{"role": role, "content": parts} for role in ("user", "assistant", "user", "assistant")]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages, "images": ["1", "2", "3", "4"]}))
    (chat,) = rows_of([tmp_path / "a.jsonl"])
    begun = chat_beginning(chat, 2)
    assert begun.messages == chat.messages[:2] and begun.images == chat.images[:2] and len(chat.images) == 4
