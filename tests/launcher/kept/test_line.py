"""What an agent and its starter say to each other; the line itself: test_serve.py, test_detached.py."""

from __future__ import annotations

import pytest
from dougong.launcher.kept.line import WAITS, AgentEnd
from pydantic import ValidationError


@pytest.mark.parametrize("end", [AgentEnd(True), AgentEnd(False, "a\nb")])
def test_an_end_survives_as_one_line_that_is_no_waiting(end: AgentEnd) -> None:
    text = end.to_json()
    assert AgentEnd.from_json(text) == end
    assert "\n" not in text and f"{text}\n".encode() != WAITS


def test_what_is_no_end_is_refused() -> None:
    with pytest.raises(ValidationError):
        AgentEnd.from_json(WAITS.decode())
