"""What a message may hold beside its role and content. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Keys under which a message has what was thought before it was said."""
_ROW = {"messages", "tools", "images"}
_MESSAGE = {"role", "content", "name", "tool_calls", "tool_call_id", "weight", *THOUGHTS}

Message = Mapping[str, Any]


def is_learnt(message: Message) -> bool:
    """Whether a message of the assistant is learnt: OpenAI's `weight` of 0 says that it is not."""
    return bool(message.get("weight", 1))


def thoughts_of(message: Message) -> str:
    """What it says was thought; empty where it says nothing of it."""
    found = (message[key] for key in THOUGHTS if isinstance(message.get(key), str))
    return next(found, "")


def call_names(message: Message) -> list[str]:
    """The functions that a message calls."""
    return [str(_function(call)["name"]) for call in message.get("tool_calls") or []]


def _function(thing: Mapping[str, Any]) -> Any:
    """Of a call or a tool: both are written with `function` around, or without it."""
    return thing.get("function", thing)


def tool_fault(tool: Any) -> str:
    """What is wrong with a tool; empty where nothing is."""
    if not isinstance(tool, dict):
        return f": must be a JSON schema of a function, not {type(tool).__name__}"
    return _name_fault(tool, '{"type": "function", "function": {"name": ..., "parameters": ...}}')


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(_function(tool)["name"]) for tool in tools]


def fault_beside_content(message: Message) -> str:
    """What is wrong with a message's other keys, with its place; empty where nothing is."""
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        return f".weight: {json.dumps(weight)[:40]}; it must be 1 (learnt) or 0 (not learnt)"
    calls = message.get("tool_calls")
    if calls is None:
        return ""
    if not isinstance(calls, list):
        return f".tool_calls: holds {type(calls).__name__}; it must be a list of calls"
    for number, call in enumerate(calls):
        fault = _call_fault(call)
        if fault:
            return f".tool_calls[{number}]{fault}"
    return ""


def _call_fault(call: Any) -> str:
    form = '{"type": "function", "function": {"name": ..., "arguments": {...}}}'
    if not isinstance(call, dict):
        return f": must be {form}, not {type(call).__name__}"
    fault = _name_fault(call, form)
    if fault:
        return fault
    arguments = _function(call).get("arguments")
    if arguments is not None and _read_arguments(arguments) is None:
        shown = json.dumps(arguments)[:60]
        return f".arguments: {shown}; they must be an object, or the JSON of one as text"
    return ""


def _name_fault(thing: Mapping[str, Any], form: str) -> str:
    function = _function(thing)
    name = function.get("name") if isinstance(function, dict) else None
    return "" if isinstance(name, str) and name else f": names no function; it must be {form}"


def _read_arguments(found: Any) -> dict[str, Any] | None:
    """The object of a call's arguments, which OpenAI writes as its JSON; None for anything else."""
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except (ValueError, RecursionError):
            return None
    return found if isinstance(found, dict) else None


def with_objects(message: Message) -> Message:
    """The same with its calls' arguments as objects, as servers give them to a template, which
    writes them as JSON itself."""
    return _with_arguments(message, _read_arguments)


def with_texts(message: Message) -> Message:
    """The same with its calls' arguments as JSON, as some templates (DeepSeek's) want them."""
    return _with_arguments(message, lambda found: json.dumps(found, ensure_ascii=False))


def _with_arguments(message: Message, change: Any) -> Message:
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = dict(_function(call))
        if function.get("arguments") is not None:
            function["arguments"] = change(function["arguments"])
        calls.append({**call, "function": function} if "function" in call else function)
    return {**message, "tool_calls": calls}


def other_keys(row: Mapping[str, Any]) -> Iterator[str]:
    """Keys of a row and of its messages that dougong itself reads nowhere; a template may."""
    yield from row.keys() - _ROW
    for message in row["messages"]:
        yield from message.keys() - _MESSAGE
