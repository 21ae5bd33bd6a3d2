"""A chat template at work: messages to text. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dougong.data.chats.messages import Message, with_texts
from dougong.data.chats.met import EARLIER_UNMARKED, END_UNMARKED
from dougong.errors import DataError

_COMMENTS = re.compile(r"\{#.*?#\}", re.DOTALL)
_MARKS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

_ASKED, _FIRST, _LAST = "dougong asks", "dougong answers", "dougong ends"
_PROBE = (
    {"role": "user", "content": _ASKED},
    {"role": "assistant", "content": _FIRST},
    {"role": "user", "content": _ASKED},
    {"role": "assistant", "content": _LAST},
)

Span = tuple[int, int]
"""Of a text: its characters begin .. end."""


@dataclass(frozen=True)
class Rendering:
    """`text`: of messages; `marked`: what lies in the template's generation marks, in order."""

    text: str
    marked: tuple[Span, ...] = ()


@dataclass(frozen=True)
class ChatTemplate:
    """`name`: of the tokenizer; `source`: Jinja; `with_tools`: another for chats with tools, or the
    same; `values`: what both are given besides messages and tools."""

    name: str
    source: str
    with_tools: str
    values: Mapping[str, Any]

    @property
    def has_marks(self) -> bool:
        return any(_MARKS.search(_COMMENTS.sub("", one)) for one in (self.source, self.with_tools))

    def reads(self, key: str) -> bool:
        """Whether a key of a message or row may be one that it looks at."""
        word = re.compile(rf"\b{re.escape(key)}\b")
        return any(word.search(one) for one in (self.source, self.with_tools))

    def render(
        self,
        place: str,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        wants_answer: bool = False,
    ) -> Rendering:
        """The messages as text; `wants_answer`: and the request for the assistant's turn. Raises
        DataError with the row's place where the template fails."""
        fault: Exception | None = None
        for form in _forms(messages):
            try:
                return self._rendered(form, tools, wants_answer)
            except Exception as error:  # a template raises whatever it likes
                fault = fault or error
        assert fault is not None
        raise DataError(
            f"{place}: the chat template of {self.name} fails ({_reason(fault)}); mend the row, "
            "or the template"
        ) from fault

    def _rendered(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], wants_answer: bool
    ) -> Rendering:
        from transformers.utils.chat_template_utils import render_jinja_template

        # Its return type is that of an older form.
        render: Any = render_jinja_template
        (text,), marked = render(
            [list(messages)],
            tools=list(tools) or None,
            chat_template=self.with_tools if tools else self.source,
            return_assistant_tokens_mask=self.has_marks,
            add_generation_prompt=wants_answer,
            **self.values,
        )
        return Rendering(text, tuple(marked[0]) if marked else ())

    def refuse_broken(self) -> None:
        """DataError for a template that is none; one that refuses a chat may be good."""
        try:
            self._rendered([{"role": "user", "content": "a"}], (), wants_answer=False)
        except Exception as error:
            # Else it may want another chat. The class is of a library that transformers brings.
            if type(error).__name__ == "TemplateSyntaxError":
                raise DataError(
                    f"data.chat: the chat template of {self.name} is none: its line "
                    f"{getattr(error, 'lineno', '?')}: {_reason(error)}; mend it, or copy the "
                    "tokenizer's folder again"
                ) from error

    def look_at_marks(self) -> dict[str, str]:
        """What is told of generation marks, seen with a made-up chat: kinds of `Met` with examples.
        Raises DataError for marks that are not around what the assistant says."""
        if not self.has_marks:
            return {}
        try:
            found = self._rendered(_PROBE, (), wants_answer=False)
        except Exception:  # perhaps it wants another chat
            return {}
        said = "".join(found.text[begin:end] for begin, end in found.marked)
        if _ASKED in said or _LAST not in said:
            where = "around what the user says" if _ASKED in said else "not around what is answered"
            raise DataError(
                f"data.chat: the generation marks in the chat template of {self.name} lie {where}; "
                "put {% generation %} ... {% endgeneration %} around each answer with its end"
            )
        told = {} if _FIRST in said else {EARLIER_UNMARKED: ""}
        rest = found.text[found.marked[-1][1] :].strip()
        return told | ({END_UNMARKED: repr(rest)} if rest else {})


def _forms(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The messages as transformers gives them to a template, without what is null; then, where that
    fails, with a content of null, and with arguments of calls as text, as DeepSeek's want them."""
    plain = [_without_null(one) for one in messages]
    yield plain
    filled = [{"content": None, **one} for one in plain]
    if filled != plain:
        yield filled
    if any(one.get("tool_calls") for one in messages):
        yield [with_texts(one) for one in plain]
        yield [with_texts(one) for one in filled]


def _without_null(message: Message) -> dict[str, Any]:
    return {key: value for key, value in message.items() if value is not None}


def _reason(error: Exception) -> str:
    """Its last line."""
    text = str(error).strip()
    return text.splitlines()[-1] if text else repr(error)
