"""The date that a chat template writes."""

from __future__ import annotations

import pytest
from dougong.data.chats.clock import at_date
from dougong.errors import DataError

LLAMA = (
    """{%- if strftime_now is defined %}{%- set day = strftime_now("%d %b %Y") %}"""
    """{%- else %}{%- set day = "26 Jul 2024" %}{%- endif %}"""
)
GPT_OSS = """{{- "Current date: " + strftime_now('%Y-%m-%d') + "\\n" }}"""


def test_the_date_of_the_job_is_written() -> None:
    assert 'set day = "31 Jan 2026" %}' in at_date(LLAMA, "2026-01-31", "DIR")
    assert at_date(GPT_OSS, "2026-01-31", "DIR") == """{{- "Current date: " + "2026-01-31" + "\\n" }}"""
    assert at_date("{{ strftime_now( format='%H:%M \"' ) }}", "2026-01-31", "DIR") == '{{ "00:00 \\"" }}'


def test_a_template_without_a_clock_is_left_as_it_is() -> None:
    for source in ("{{ messages }}{# a #}", "{% if strftime_now is defined %}a{% endif %}"):
        assert at_date(source, "2026-01-31", "DIR") == source == at_date(source, None, "DIR")
    assert at_date("{# strftime_now('%Y') #}a", None, "DIR") == "a"


def test_a_clock_without_a_date_is_refused_with_the_key() -> None:
    with pytest.raises(DataError, match=r"DIR writes today's date .* fix the date it writes: data.chat_date: 2\d{3}-"):
        at_date(LLAMA, None, "DIR")
    with pytest.raises(DataError, match="in a form that is not written there as text"):
        at_date("{{ strftime_now(form) }}", "2026-01-31", "DIR")
