"""Lines of JSON: what two readers would take differently is refused."""

from __future__ import annotations

import re

import pytest
from dougong.data.chats.row_json import read_row
from dougong.errors import DataError

DEEP = b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
WRONG = [
    (b'{"a": 1, "b": 2, "a": 3}', 'a: line 1: not JSON (the key "a" is there twice; leave one)'),
    (b'{"a": NaN}', "a: line 1: not JSON (NaN is no number of JSON)"),
    (b'{"a": -Infinity}', "a: line 1: not JSON (-Infinity is no number of JSON)"),
    (b'{"a": "\\ud800x"}', "a: line 1: holds half of a surrogate pair, which is no character"),
    (DEEP, "a: line 1: objects or lists lie in each other too deep to be read; take the row out"),
    (b'{"a": "\xff"}', "a: line 1: not UTF-8"),
]


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[case[1][11:30] for case in WRONG])
def test_what_is_doubtful_is_refused_with_its_place(line: bytes, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_row("a: line 1", line)


def test_what_is_good_is_read() -> None:
    assert read_row("a", b'{"a": ["\\ud83d\\ude00", 1e3, null]}') == {"a": ["\U0001f600", 1000.0, None]}
