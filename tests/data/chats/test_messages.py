"""Messages beside role and content: weights, calls, tools, thoughts."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.data.chats.messages import (
    call_names,
    fault_beside_content,
    is_learnt,
    other_keys,
    thoughts_of,
    tool_fault,
    tool_names,
    with_objects,
    with_texts,
)

CALL = {"type": "function", "id": "1", "function": {"name": "f", "arguments": '{"x": "\u00e9"}'}}


def message(**more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "a", **more}


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({}, ""),
        ({"weight": 0, "tool_calls": [CALL]}, ""),
        ({"weight": True}, ".weight: true; it must be 1 (learnt) or 0 (not learnt)"),
        ({"weight": "0"}, '.weight: "0"; it must be 1'),
        ({"tool_calls": "yes"}, ".tool_calls: holds str; it must be a list of calls"),
        ({"tool_calls": [CALL, 1]}, ".tool_calls[1]: must be {"),
        ({"tool_calls": [{"function": "f"}]}, ".tool_calls[0]: names no function; it must be {"),
        (
            {"tool_calls": [{"name": "f", "arguments": "x=1"}]},
            '.tool_calls[0].arguments: "x=1"; they must be an object',
        ),
        ({"tool_calls": [{"name": "f", "arguments": [1]}]}, ".tool_calls[0].arguments: [1]; they must be"),
        ({"tool_calls": [{"name": "f", "arguments": {"x": 1}}]}, ""),
    ],
)
def test_faults_are_named_with_their_place(more: dict[str, Any], fault: str) -> None:
    found = fault_beside_content(message(**more))
    assert found.startswith(fault) and bool(found) == bool(fault)


def test_arguments_are_objects_or_texts() -> None:
    """A template that writes JSON itself would write a text in quotes."""
    one = with_objects(message(tool_calls=[CALL, {"name": "g", "arguments": {"y": 1}}, {"name": "h"}]))
    assert [call.get("function", call).get("arguments") for call in one["tool_calls"]] == [
        {"x": "\u00e9"},
        {"y": 1},
        None,
    ]
    assert one["tool_calls"][0]["id"] == "1" and call_names(one) == ["f", "g", "h"]
    texts = [call.get("function", call).get("arguments") for call in with_texts(one)["tool_calls"]]
    assert texts == ['{"x": "\u00e9"}', '{"y": 1}', None]
    assert with_objects(message()) == message()


def test_a_weight_of_0_is_not_learnt() -> None:
    assert [is_learnt(message(**more)) for more in ({}, {"weight": 1}, {"weight": 0})] == [True, True, False]


def test_thoughts_have_several_names() -> None:
    assert [thoughts_of(message(**{key: "why"})) for key in ("reasoning_content", "thinking", "reasoning")] == [
        "why"
    ] * 3
    assert thoughts_of(message(thinking=None)) == ""


def test_tools_are_named_with_or_without_function_around() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}, {"name": "g"}]
    assert tool_names(tools) == ["f", "g"] and not any(map(tool_fault, tools))
    assert tool_fault({"nonsense": 1}).startswith(": names no function")
    assert tool_fault("f").startswith(": must be a JSON schema of a function, not str")


def test_other_keys_are_those_of_row_and_messages() -> None:
    row = {"messages": [message(train=False), message(weight=1)], "tool": [], "tools": []}
    assert sorted(other_keys(row)) == ["tool", "train"]
