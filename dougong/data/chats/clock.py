"""Chat templates that read the clock: the date of a job in its place. Imports no torch.

Llama 3, gpt-oss and others write today's date into the system's turn (`strftime_now`), so the same
job would give other tokens tomorrow.
"""

from __future__ import annotations

import datetime
import re

from dougong.errors import DataError

_CALL = re.compile(r"\bstrftime_now\s*\(")
_CALL_WITH_FORMAT = re.compile(
    r"""\bstrftime_now\s*\(\s*(?:format\s*=\s*)?(["'])((?:(?!\1)[^\\])*)\1\s*\)"""
)
_COMMENTS = re.compile(r"\{#.*?#\}", re.DOTALL)


def at_date(source: str, date: str | None, name: str) -> str:
    """A template that writes this date (ISO 8601), at midnight, where it read the clock. Raises
    DataError where it does and there is no date, or it cannot be told how it writes it."""
    source = _COMMENTS.sub("", source) if _CALL.search(source) else source
    if not _CALL.search(source):
        return source
    if date is None:
        raise DataError(
            f"data.chat: the chat template of {name} writes today's date (strftime_now), so the "
            "same job would learn other tokens tomorrow; fix the date it writes: data.chat_date: "
            f"{datetime.date.today().isoformat()}"
        )
    day = datetime.datetime.fromisoformat(date)

    def written(call: re.Match[str]) -> str:
        text = day.strftime(call[2]).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'

    fixed = _CALL_WITH_FORMAT.sub(written, source)
    if _CALL.search(fixed):
        raise DataError(
            f"data.chat: the chat template of {name} writes the date (strftime_now) in a form that "
            "is not written there as text; put the date itself into a copy of the template"
        )
    return fixed
