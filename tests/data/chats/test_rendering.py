"""A chat template at work."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.data.chats.met import EARLIER_UNMARKED, END_UNMARKED
from dougong.data.chats.rendering import ChatTemplate
from dougong.errors import DataError
from tests.chats import MARKED, PLAIN, row

LOOP = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %};{% endfor %}"
)


def template(source: str, with_tools: str | None = None, **values: Any) -> ChatTemplate:
    return ChatTemplate("DIR", source, with_tools or source, values)


def text(source: str, *messages: dict[str, Any]) -> str:
    return template(source).render("a: line 1", messages, ()).text


def test_marks_are_seen_in_every_form_and_not_in_comments() -> None:
    seen = ["{% generation %}", "{%- generation -%}", "{%+ generation %}", "{%generation%}"]
    assert all(template(one).has_marks for one in seen)
    assert not any(template(one).has_marks for one in (PLAIN, "{# {% generation %} #}", "{% endgeneration %}"))


def test_null_is_left_out_and_given_where_a_template_asks_for_it() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}
    assert text("{% for m in messages %}{{ 'content' in m }}{% endfor %}", call) == "False"
    # As DeepSeek's: a key that is not there fails, null is another branch.
    asks = "{% for m in messages %}{% if m.content is none %}calls{% else %}{{ m.content + '' }}{% endif %}{% endfor %}"
    assert text(asks, call) == "calls"
    joined = "{% for m in messages %}{{ m.tool_calls[0].name + m.tool_calls[0].arguments }}{% endfor %}"
    assert text(joined, call) == 'f{"x": 1}'


def test_tools_may_have_a_template_of_their_own() -> None:
    both = template("plain", "{{ tools[0].name }}")
    assert both.render("a", (), ()).text == "plain" and both.render("a", (), ({"name": "f"},)).text == "f"


def test_failures_are_told_with_row_and_reason() -> None:
    with pytest.raises(DataError, match=r"a: line 1: the chat template of DIR fails \(no system\); mend the row"):
        text("{{ raise_exception('no system') }}", {"role": "user", "content": "a"})


def test_a_template_that_is_none_is_no_fault_of_a_row() -> None:
    with pytest.raises(DataError, match=r"^data.chat: the chat template of DIR is none: its line 2: .*mend it"):
        template("a\n{% for m in %}").refuse_broken()
    template("{{ raise_exception('no') }}").refuse_broken()


def test_marks_lie_around_answers_with_their_ends() -> None:
    assert template(MARKED).look_at_marks() == {} == template(PLAIN).look_at_marks()
    assert template(LOOP).look_at_marks() == {END_UNMARKED: "';'"}
    last = LOOP.replace("== 'assistant'", "== 'assistant' and loop.last")
    assert set(template(last).look_at_marks()) == {END_UNMARKED, EARLIER_UNMARKED}
    with pytest.raises(DataError, match="generation marks in the chat template of DIR lie around what the user says"):
        template(f"{{% generation %}}{PLAIN}{{% endgeneration %}}").look_at_marks()
    with pytest.raises(DataError, match="around what the user says"):
        template(LOOP.replace("'assistant'", "'user'")).look_at_marks()
    with pytest.raises(DataError, match="lie not around what is answered"):
        template(f"{PLAIN}{{% generation %}}{{% endgeneration %}}").look_at_marks()


def test_keys_that_a_template_reads_are_known() -> None:
    assert template(PLAIN).reads("content") and not template(PLAIN).reads("train")
    assert template(PLAIN).render("a", row("a", "b")["messages"], (), wants_answer=True).text.endswith("assistant\n")
