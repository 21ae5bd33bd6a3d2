"""Chats to ids by a tokenizer's template, beside transformers' own; what is learnt is what the assistant says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dougong.data.chats.rows import Chat
from dougong.data.chats.template import ChatTokenizer, open_chat_tokenizer
from dougong.errors import DataError
from tests.chats import FORGETFUL, MARKED, PLAIN, chat_tokenizer, row


def opened(folder: Path, template: str | None = PLAIN) -> ChatTokenizer:
    return open_chat_tokenizer(str(chat_tokenizer(folder, template)), "text")


def chat(*turns: str, **more: Any) -> Chat:
    return Chat("a.jsonl: line 3", tuple(row(*turns)["messages"]), **more)


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["by turns", "by marks"])
def test_the_assistants_turns_are_learnt_to_their_ends(template: str, tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, template)
    asked = chat("who?", "me", "and?", "you too")
    found = tokenizer.encode(asked)
    expected = tokenizer.model.apply_chat_template(list(asked.messages), tokenize=True, return_dict=True)["input_ids"]
    assert found.ids.tolist() == expected
    learnt = tokenizer.model.decode(found.ids[found.is_target])
    assert learnt == "me<|im_end|>\nyou too<|im_end|>\n"


def test_both_ways_find_the_same(tmp_path: Path) -> None:
    one, other = opened(tmp_path / "a"), opened(tmp_path / "b", MARKED)
    asked = chat("a", "b", "c", "d")
    assert one.encode(asked).is_target.tolist() == other.encode(asked).is_target.tolist()
    assert one.digest != other.digest and one.digest == opened(tmp_path / "a").digest


def test_tools_are_rendered(tmp_path: Path) -> None:
    tools = ({"type": "function", "function": {"name": "look_up"}},)
    tokenizer = opened(tmp_path)
    assert "look_up" in tokenizer.model.decode(tokenizer.encode(chat("a", "b", tools=tools)).ids)


def test_a_template_that_forgets_is_refused_with_the_row(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, FORGETFUL)
    tokenizer.encode(chat("a", "b"))
    with pytest.raises(DataError, match=r"a.jsonl: line 3: .*renders its first 2 messages otherwise.*generation"):
        tokenizer.encode(chat("a", "b", "c", "d"))


def test_a_template_that_fails_is_refused_with_the_row_and_its_reason(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, "{{ raise_exception('no system here') }}")
    with pytest.raises(DataError, match=r"a.jsonl: line 3: the chat template of .* fails \(no system here\)"):
        tokenizer.encode(chat("a", "b"))


def test_a_template_that_marks_nothing_is_refused_with_the_row(tmp_path: Path) -> None:
    """transformers gives a mask of zeros."""
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% generation %}{% endgeneration %}"
    with pytest.raises(DataError, match=r"a.jsonl: line 3: .*renders no token of the assistant's"):
        opened(tmp_path, template).encode(chat("a", "b"))


def in_parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


TRIMS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text | trim }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Takes parts, and does with them what it does with no text."""


def test_a_template_that_takes_strings_alone_gets_the_text_of_all_parts(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path)
    plain, parts = row("who are you?", "me"), row("", "")
    parts["messages"][0]["content"] = in_parts("who ", "are you?")
    parts["messages"][1]["content"] = in_parts("me")
    one, other = (tokenizer.encode(Chat("a", tuple(given["messages"]))) for given in (plain, parts))
    assert one.ids.tolist() == other.ids.tolist() and one.is_target.tolist() == other.is_target.tolist()


def test_a_template_that_takes_parts_gets_them_as_they_are(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, TRIMS)
    given = row("", "me")
    given["messages"][0]["content"] = in_parts("  who ", " are you?")
    expected = tokenizer.model.apply_chat_template(given["messages"], tokenize=True, return_dict=True)["input_ids"]
    found = tokenizer.encode(Chat("a", tuple(given["messages"])))
    assert found.ids.tolist() == expected and "whoare you?" in tokenizer.model.decode(found.ids)


def test_parts_are_told_apart_by_role(tmp_path: Path) -> None:
    """A template may take them of some roles only."""
    template = (
        "{% for m in messages %}{{ m.content if m.role != 'user' or m.content is string else m.content[0].text }}"
    )
    tokenizer = opened(tmp_path, f"{template}|{{% endfor %}}")
    given = {"messages": [
        {"role": "system", "content": in_parts("be ", "kind")}, {"role": "user", "content": in_parts("a", "b")},
        {"role": "assistant", "content": "c"}, {"role": "tool", "content": in_parts("d")},
    ]}  # fmt: skip
    assert tokenizer.model.decode(tokenizer.encode(Chat("a", tuple(given["messages"]))).ids) == "be kind|a|c|d|"


def test_an_image_for_a_template_of_text_alone_is_refused_with_the_row(tmp_path: Path) -> None:
    given = row("", "me")
    given["messages"][0]["content"] = [{"type": "image"}]
    with pytest.raises(DataError, match=r"a.jsonl: line 3: .*takes only text of the role user, and an image is there"):
        opened(tmp_path).encode(Chat("a.jsonl: line 3", tuple(given["messages"])))


def test_a_tokenizer_without_a_template_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no chat template; name the folder of an instruct model"):
        opened(tmp_path, None)
    with pytest.raises(DataError, match="`bytes` has no chat template"):
        open_chat_tokenizer("bytes", "")
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": PLAIN}))
    assert open_chat_tokenizer(str(tmp_path), "text").encode(chat("a", "b")).is_target.any()
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="transformers finds no tokenizer here"):
        open_chat_tokenizer(str(empty), "")
