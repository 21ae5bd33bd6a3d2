"""Chats to ids by a tokenizer's template, beside transformers' own; what is learnt is what the assistant says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dougong.data.chats.met import Met
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
    found = tokenizer.encode(asked)[0]
    expected = tokenizer.model.apply_chat_template(list(asked.messages), tokenize=True, return_dict=True)["input_ids"]
    assert found.ids.tolist() == expected
    learnt = tokenizer.model.decode(found.ids[found.is_target])
    assert learnt == "me<|im_end|>\nyou too<|im_end|>\n"


def test_both_ways_find_the_same(tmp_path: Path) -> None:
    one, other = opened(tmp_path / "a"), opened(tmp_path / "b", MARKED)
    asked = chat("a", "b", "c", "d")
    assert one.encode(asked)[0].is_target.tolist() == other.encode(asked)[0].is_target.tolist()
    assert one.digest != other.digest and one.digest == opened(tmp_path / "a").digest


def settings(folder: Path, **values: Any) -> Path:
    """tokenizer_config.json with other values, as an editor changes it."""
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


def test_what_tokenizer_config_changes_is_in_the_digest(tmp_path: Path) -> None:
    """A tokenizer that was mended there would be taken for the one before, whose ids lie in the cache."""
    folder = chat_tokenizer(tmp_path)
    before = open_chat_tokenizer(str(folder), "text")
    digests, ids = {before.digest}, {tuple(before.encode(chat("user", "b"))[0].ids)}
    more = ["<|im_start|>", "<|im_end|>", "user"]
    for change in ({"split_special_tokens": True}, {"split_special_tokens": False, "extra_special_tokens": more}):
        after = open_chat_tokenizer(str(settings(folder, **change)), "text")
        digests.add(after.digest)
        ids.add(tuple(after.encode(chat("user", "b"))[0].ids))
    assert len(digests) == len(ids) == 3
    assert after.num_ids == before.num_ids + 1 == int(after.encode(chat("user", "b"))[0].ids.max()) + 1


def test_a_template_is_given_the_job_s_date_and_arguments(tmp_path: Path) -> None:
    source = "{{ strftime_now('%Y') }}{% if not think %}(brief){% endif %}" + PLAIN
    folder = str(chat_tokenizer(tmp_path, source))
    with pytest.raises(DataError, match="data.chat_date: "):
        open_chat_tokenizer(folder, "text")
    found = [
        open_chat_tokenizer(folder, "text", date, arguments)
        for date, arguments in (("2025-01-31", {}), ("2026-01-31", {}), ("2026-01-31", {"think": True}))
    ]
    texts = [one.model.decode(one.encode(chat("a", "b"))[0].ids)[:8] for one in found]
    assert texts == ["2025(bri", "2026(bri", "2026<|im"] and len({one.digest for one in found}) == 3
    with pytest.raises(DataError, match="data.chat_arguments: the chat template of .* reads no `thinks`; take it out"):
        open_chat_tokenizer(folder, "text", "2026-01-31", {"thinks": True})


def test_a_folder_with_code_of_its_own_is_read_by_its_tokenizer_json(tmp_path: Path) -> None:
    own = {"auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}, "tokenizer_class": "OwnTokenizer"}
    plain = open_chat_tokenizer(str(chat_tokenizer(tmp_path)), "text").encode(chat("a", "b"))[0]
    tokenizer = open_chat_tokenizer(str(settings(tmp_path, **own)), "text")
    assert tokenizer.encode(chat("a", "b"))[0].ids.tolist() == plain.ids.tolist()
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="transformers finds no tokenizer here"):
        open_chat_tokenizer(str(tmp_path), "text")


def test_tools_are_rendered(tmp_path: Path) -> None:
    tools = ({"type": "function", "function": {"name": "look_up"}},)
    tokenizer = opened(tmp_path)
    assert "look_up" in tokenizer.model.decode(tokenizer.encode(chat("a", "b", tools=tools))[0].ids)


def learnt(tokenizer: ChatTokenizer, asked: Chat, met: Met | None = None) -> list[tuple[str, str]]:
    """Of every sequence the text, and what of it is learnt."""
    decode = tokenizer.model.decode
    return [(decode(one.ids), decode(one.ids[one.is_target])) for one in tokenizer.encode(asked, met)]


def test_a_template_that_forgets_gives_each_turn_as_it_is_asked_for(tmp_path: Path) -> None:
    tokenizer, met = opened(tmp_path, FORGETFUL), Met()
    (whole, second), (part, first) = learnt(tokenizer, chat("a", "b", "c", "d"), met)
    asked = tokenizer.model.apply_chat_template(row("a", "b", "c", "d")["messages"], tokenize=False)
    assert whole == asked and "assistant\n...<" in whole
    assert part == tokenizer.model.apply_chat_template(row("a", "b")["messages"], tokenize=False)
    assert (first, second) == ("b<|im_end|>\n", "d<|im_end|>\n")
    (note,) = met.remarks("a.jsonl").notes
    assert note.startswith("a.jsonl: 1 chats are several sequences each (the first: a.jsonl: line 3)")


def test_an_answer_may_grow_together_with_what_is_before_it(tmp_path: Path) -> None:
    """Newlines of header and answer are one token, which transformers' own marks learn, too."""
    tokenizer, marked = opened(tmp_path / "a"), opened(tmp_path / "b", MARKED)
    asked = chat("who?", "\nme", "and?", "\n\n\nyou")
    (one,), (other,) = tokenizer.encode(asked), marked.encode(asked)
    mask = marked.model.apply_chat_template(
        list(asked.messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )["assistant_masks"]
    assert one.is_target.tolist() == other.is_target.tolist() == [bool(value) for value in mask]
    assert one.is_target.sum() > 6


def test_a_character_of_many_tokens_is_learnt_to_its_end(tmp_path: Path) -> None:
    ((_, found),) = learnt(opened(tmp_path, MARKED), chat("a", "\U0001f600"))
    assert found == "\U0001f600<|im_end|>\n"


def test_a_template_that_fails_is_refused_with_the_row_and_its_reason(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, "{{ raise_exception('no system here') }}")
    with pytest.raises(DataError, match=r"a.jsonl: line 3: the chat template of .* fails \(no system here\)"):
        tokenizer.encode(chat("a", "b"))


def test_a_template_that_marks_nothing_is_refused_with_the_row(tmp_path: Path) -> None:
    """transformers gives a mask of zeros."""
    with pytest.raises(DataError, match=r"a.jsonl: line 3: .*renders no token of the assistant's"):
        opened(tmp_path, "hello").encode(chat("a", "b"))


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
    one, other = (tokenizer.encode(Chat("a", tuple(given["messages"])))[0] for given in (plain, parts))
    assert one.ids.tolist() == other.ids.tolist() and one.is_target.tolist() == other.is_target.tolist()


def test_a_template_that_takes_parts_gets_them_as_they_are(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, TRIMS)
    given = row("", "me")
    given["messages"][0]["content"] = in_parts("  who ", " are you?")
    expected = tokenizer.model.apply_chat_template(given["messages"], tokenize=True, return_dict=True)["input_ids"]
    (found,) = tokenizer.encode(Chat("a", tuple(given["messages"])))
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
        {"role": "assistant", "content": "e"},
    ]}  # fmt: skip
    assert tokenizer.model.decode(tokenizer.encode(Chat("a", tuple(given["messages"])))[0].ids) == "be kind|a|c|d|e|"


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
    assert open_chat_tokenizer(str(tmp_path), "text").encode(chat("a", "b"))[0].is_target.any()
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="transformers finds no tokenizer here"):
        open_chat_tokenizer(str(empty), "")
