"""A line of JSON, read strictly: what two readers would take differently is refused. Imports no
torch."""

from __future__ import annotations

import json
from typing import Any

from dougong.errors import DataError
from dougong.models.stored.headers import LFS_POINTER


def read_row(place: str, line: bytes) -> Any:
    """What a line holds. Raises DataError with its place for what is not JSON, for a key that is
    there twice, for numbers that JSON has not, and for half a character."""
    if line.startswith(LFS_POINTER):
        raise DataError(
            f"{place}: is a git-lfs pointer, not the file itself: run `git lfs pull` there"
        )
    try:
        row = json.loads(line, object_pairs_hook=_object, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error.reason}); convert the file") from error
    except ValueError as error:
        raise DataError(
            f"{place}: not JSON ({error}); a file of chats has one JSON object a line"
        ) from error
    except RecursionError:
        raise DataError(
            f"{place}: objects or lists lie in each other too deep to be read; take the row out"
        ) from None
    if b"\\u" in line:
        _refuse_half_characters(place, row)
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {json.dumps(twice)} is there twice; leave one")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _refuse_half_characters(place: str, row: Any) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{place}: holds half of a surrogate pair, which is no character; mend the row, or "
            "take it out"
        ) from None
