"""Files of chats: every row that is none is refused by file, line and rule."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dougong.data.chats.rows import chat_files, read_chats
from dougong.errors import DataError
from tests.chats import row, write_chats

GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
CALL = '{"messages": [{"role": "assistant", "content": null, "tool_calls": [{}]}], "tools": [{"type": "function"}]}'


def test_rows_are_read_in_order_with_their_places(tmp_path: Path) -> None:
    write_chats(tmp_path / "a.jsonl", [row("a", "b")])
    (tmp_path / "b.jsonl").write_text(f"\n{GOOD}\n\n{CALL}\n")
    found = list(read_chats(chat_files(f"{tmp_path}/*.jsonl")))
    assert [chat.place for chat in found] == [
        f"{tmp_path}/{p}" for p in ("a.jsonl: line 1", "b.jsonl: line 2", "b.jsonl: line 4")
    ]
    assert found[2].tools == ({"type": "function"},) and [m["content"] for m in found[0].messages] == ["a", "b"]


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
    ('{"messages": [{"role": "user", "content": "a"}]}', "line 2: no message is the assistant's, so nothing of this"),
    (GOOD[:-1] + ', "tools": "search"}', "line 2: tools: must be a list of JSON schemas"),
    ("version https://git-lfs.github.com/spec/v1", "line 2: is a git-lfs pointer"),
]


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[case[1][:40] for case in WRONG])
def test_a_row_that_is_no_chat_is_refused_by_file_line_and_rule(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/a.jsonl: {message}")):
        list(read_chats([tmp_path / "a.jsonl"]))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"messages": "\xff\xfe"}\n')
    with pytest.raises(DataError, match=r"a.jsonl: line 1: not UTF-8"):
        list(read_chats([tmp_path / "a.jsonl"]))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.chat: .*none.jsonl: no such file"):
        chat_files(f"{tmp_path}/none.jsonl")
    with pytest.raises(DataError, match="cannot be opened"):
        list(read_chats([tmp_path / "none.jsonl"]))
