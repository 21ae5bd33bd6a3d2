"""Where the assistant speaks: by marks, by prefixes, and what cannot be told."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.data.chats.met import CONTENT_CHANGED, HEADER, SPLIT, THOUGHTS_LOST, Met
from dougong.data.chats.rendering import ChatTemplate
from dougong.data.chats.rows import Chat
from dougong.data.chats.turns import learnt_texts
from dougong.errors import DataError
from tests.chats import FORGETFUL, MARKED, PLAIN, row

CALL: dict[str, Any] = {"tool_calls": [{"type": "function", "function": {"name": "look_up", "arguments": {"x": 1}}}]}
THINKING = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% if m.reasoning_content and loop.last %}"
    "({{ m.reasoning_content }}){% endif %}{% endif %}{{ m.content }}"
    "{{ m.tool_calls | tojson if m.tool_calls }}|{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""As reasoning models have it: earlier thoughts are left out."""


def chat(*messages: dict[str, Any], tools: tuple[dict[str, Any], ...] = ()) -> Chat:
    return Chat("a: line 1", messages, tools)


def said(role: str, content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def learnt(source: str, asked: Chat, met: Met | None = None) -> list[tuple[str, list[str]]]:
    found = learnt_texts(ChatTemplate("DIR", source, source, {}), asked, met or Met())
    return [(one.text, [one.text[begin:end] for begin, end in one.spans]) for one in found]


def test_every_turn_is_learnt_once_as_it_is_when_it_is_the_last() -> None:
    """Nothing of a chat with tools and thoughts is lost: each answer stands after what the model is asked it with."""
    met = Met()
    call = said("assistant", "", reasoning_content="hm", **CALL)
    asked = chat(said("user", "q"), call, said("tool", "5"), said("assistant", "a", reasoning_content="so"))
    (last, of_last), (first, of_first) = learnt(THINKING, asked, met)
    calls = '[{"type": "function", "function": {"name": "look_up", "arguments": {"x": 1}}}]'
    assert last == f"<user>q|<assistant>{calls}|<tool>5|<assistant>(so)a|" and of_last == ["(so)a|"]
    assert first == f"<user>q|<assistant>(hm){calls}|" and of_first == [f"(hm){calls}|"]
    assert set(met.found) == {SPLIT}


def test_turns_that_render_alike_share_a_text() -> None:
    ((_, found),) = learnt(PLAIN, chat(*row("a", "b", "c", "d")["messages"]))
    assert found == ["b<|im_end|>\n", "d<|im_end|>\n"]
    assert len(learnt(FORGETFUL, chat(*row("a", "b", "c", "d", "e", "f")["messages"]))) == 3


@pytest.mark.parametrize("source", [PLAIN, MARKED])
def test_a_message_of_weight_0_is_read_and_not_learnt(source: str) -> None:
    messages = row("a", "bad", "c", "good")["messages"]
    messages[1]["weight"] = 0
    ((text, found),) = learnt(source, chat(*messages))
    assert "bad" in text and found == ["good<|im_end|>\n"]


def test_a_weight_that_cannot_be_matched_to_marks_is_refused() -> None:
    messages = row("a", "bad", "c", "good")["messages"]
    messages[1]["weight"] = 0
    once = MARKED.replace("m.role == 'assistant'", "m.role == 'assistant' and loop.last")
    with pytest.raises(DataError, match="has 1 generation marks in a chat of 2 answers"):
        learnt(once, chat(*messages))


@pytest.mark.parametrize("source", [PLAIN, MARKED])
def test_calls_and_tools_that_are_not_rendered_are_refused(source: str) -> None:
    call = said("assistant", "", **CALL)
    with pytest.raises(
        DataError, match=r"messages\[1\].tool_calls: the chat template of DIR renders no call of look_up"
    ):
        learnt(source, chat(said("user", "q"), call))
    tools = ({"name": "look_up"},)
    with pytest.raises(DataError, match="tools: the chat template of DIR does not render look_up"):
        learnt(MARKED, chat(said("user", "q"), said("assistant", "a"), tools=tools))


def test_a_chat_may_begin_with_the_assistant() -> None:
    ((text, found),) = learnt(PLAIN, chat(said("assistant", "hi"), said("user", "a"), said("assistant", "b")))
    assert found == ["hi<|im_end|>\n", "b<|im_end|>\n"] and text.startswith("<|im_start|>assistant\nhi")
    with pytest.raises(DataError, match="the chat begins with the assistant's turn, and .*put a message of the user's"):
        learnt("{% for m in messages %}{{ m.content }}{% endfor %}", chat(said("assistant", "hi")))


def test_a_turn_that_is_rendered_otherwise_than_asked_for_is_refused_with_both() -> None:
    """As DeepSeek-R1's: the request opens the thoughts, the turn has none."""
    source = PLAIN.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    with pytest.raises(
        DataError, match=r"asks for messages\[1\] with '<think>\\n' where it renders the turn itself as 'b<"
    ):
        learnt(source, chat(*row("a", "b")["messages"]))
    marked = MARKED.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    assert learnt(marked, chat(*row("a", "b")["messages"]))[0][1] == ["b<|im_end|>\n"]


def test_what_is_learnt_otherwise_than_it_stands_is_told() -> None:
    met = Met()
    silent = "{% for m in messages %}<{{ m.role }}>{{ m.content | upper }}|{% endfor %}"
    learnt(silent, chat(said("user", "q"), said("assistant", "xyz", thinking="hm")), met)
    assert set(met.found) == {THOUGHTS_LOST, CONTENT_CHANGED}
    met = Met()
    learnt(silent.replace(" | upper", ""), chat(said("user", "q"), said("assistant", "xyz")), met)
    assert met.found[HEADER].example == "'<assistant>'"
