"""What goes over the line between a controller and its backend's process."""

from __future__ import annotations

import pytest
from dougong.control.messages import ProtocolError
from dougong.deadlines import DEADLINES
from dougong.error_words import ErrorWords
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.backends.process.messages import (
    BackendMessage,
    BackendSetup,
    ErrorAnswer,
    NodesAnswer,
    StartCall,
    from_line,
    to_line,
)
from dougong.launcher.backends.ray_choice import joining
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec

SPEC = AgentSpec("east", "east", "both", "cpu", 1, 0, 2, node="ab")
SETTINGS = AgentSettings("east", "east", "cpu", 1, True, ("::1", 7), "secret", "/run", ("json",), "/")
NODE = Node("ab", "alpha", "::1", {"npu": 8}, {"pool": "b"}, "", {"npu": 1}, ("x (7)",), 2.0, 1.5, frozenset({"r"}))


@pytest.mark.parametrize(
    "message",
    [
        BackendSetup("a:b", joining("10.0.0.1:6379"), DEADLINES, "/run", 7, ("dougong", "run", "job.yaml")),
        StartCall(1, (SPEC,), {"east": SETTINGS}),
        NodesAnswer(2, (NODE,)),
        ErrorAnswer(3, ErrorWords("NoRoomError", "none\nat all", True)),
    ],
)
def test_a_message_comes_back_from_its_one_line(message: BackendMessage) -> None:
    line = to_line(message)
    assert line.count(b"\n") == 1
    assert from_line(line) == message


@pytest.mark.parametrize("line", [b"", b"{}", b'{"kind": "nobody"}', b'{"kind": "open"}'])
def test_anything_else_is_an_error_of_the_protocol(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="no message of a backend's process"):
        from_line(line)
