"""Where in a rendered chat the assistant speaks. Imports no torch.

By the template's generation marks, else by what it renders up to each turn. Learnt is what follows
the request for a turn up to the turn's end, in the text that is rendered when it is the last: what
the model sees when it is asked for it. A template that renders a turn otherwise once others follow
(leaves out its thoughts, ends it with another token) gives several texts of one chat.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from dougong.data.chats.messages import call_names, is_learnt, thoughts_of, tool_names
from dougong.data.chats.met import CONTENT_CHANGED, HEADER, SPLIT, THOUGHTS_LOST, Met
from dougong.data.chats.rendering import ChatTemplate, Span
from dougong.data.chats.rows import LEARNT, Chat
from dougong.errors import DataError

_SHOWN = 40


@dataclass(frozen=True)
class LearntText:
    """The first `num_messages` of a chat as text, and what of it is learnt."""

    text: str
    spans: tuple[Span, ...]
    num_messages: int


def learnt_texts(template: ChatTemplate, chat: Chat, met: Met) -> list[LearntText]:
    """Every turn of the assistant's that is learnt lies in one of them, once. Raises DataError with
    the row's place where the turns cannot be found, or the template leaves out what they call."""
    turns = _Turns(template, chat, met)
    texts = [turns.marked()] if template.has_marks else list(turns.by_prefixes())
    turns.refuse_unrendered_tools(texts[0].text)
    return texts


@dataclass(frozen=True)
class _Prefix:
    """The first messages of a chat as rendered: how long, and a digest."""

    length: int
    digest: bytes

    def begins(self, text: str) -> bool:
        return len(text) >= self.length and _digest(text[: self.length]) == self.digest


@dataclass(frozen=True)
class _Turns:
    template: ChatTemplate
    chat: Chat
    met: Met

    @functools.cached_property
    def numbers(self) -> list[int]:
        """The messages that are learnt."""
        messages = enumerate(self.chat.messages)
        return [n for n, one in messages if one["role"] == LEARNT and is_learnt(one)]

    def marked(self) -> LearntText:
        chat = self.chat
        found = self.template.render(chat.place, chat.messages, chat.tools)
        spans = found.marked
        answers = [number for number, one in enumerate(chat.messages) if one["role"] == LEARNT]
        if len(answers) == len(spans):
            spans = tuple(spans[answers.index(number)] for number in self.numbers)
            for number, (begin, end) in zip(self.numbers, spans, strict=True):
                self._compare(number, found.text[begin:end])
        elif len(answers) != len(self.numbers):
            raise DataError(
                f"{chat.place}: a message's weight is 0, but the chat template of "
                f"{self.template.name} has {len(spans)} generation marks in a chat of "
                f"{len(answers)} answers, so it cannot be told which is that message's; take the "
                "weight out, or mark each answer once"
            )
        else:
            said = "".join(found.text[begin:end] for begin, end in spans)
            for number in self.numbers:
                self._refuse_unrendered_calls(number, said)
        return LearntText(found.text, spans, len(chat.messages))

    def by_prefixes(self) -> Iterator[LearntText]:
        """From the last turn on: with every text the turns of it that are rendered there as they
        are when they are the last."""
        rest, count = self.numbers, 0
        while rest:
            text = self._text(rest[-1] + 1)
            here = [n for n in rest if n == rest[-1] or self._end(n).begins(text)]
            spans = []
            for number in here:
                spans.append((self._begin(number).length, self._end(number).length))
                self._compare(number, text[slice(*spans[-1])])
            yield LearntText(text, tuple(spans), rest[-1] + 1)
            rest = [number for number in rest if number not in here]
            count += 1
        if count > 1:
            self.met.add(SPLIT, self.chat.place)

    def _text(self, count: int, wants_answer: bool = False) -> str:
        chat = self.chat
        return self.template.render(
            chat.place, chat.messages[:count], chat.tools, wants_answer
        ).text

    @functools.cached_property
    def _ends(self) -> dict[int, _Prefix]:
        return {}

    @functools.cached_property
    def _begins(self) -> dict[int, _Prefix]:
        return {}

    def _end(self, number: int) -> _Prefix:
        """The text up to the turn's end, when it is the last."""
        if number not in self._ends:
            self._find(number)
        return self._ends[number]

    def _begin(self, number: int) -> _Prefix:
        """What of that text comes before the turn."""
        if number not in self._begins:
            self._find(number)
        return self._begins[number]

    def _find(self, number: int) -> None:
        text = self._text(number + 1)
        asked = self._asked_first(text) if number == 0 else self._text(number, True)
        if not text.startswith(asked):
            self._refuse_other_beginning(number, asked, text)
        self._begins[number] = _Prefix(len(asked), _digest(asked))
        self._ends[number] = _Prefix(len(text), _digest(text))
        if number and asked == self._text(number):
            self._note_header(number, text[len(asked) :])

    def _asked_first(self, text: str) -> str:
        """What comes before the first answer of a chat that begins with it. Templates do not render
        nothing, so the request is what they add to the answer itself."""
        request = self._text(1, True)[len(text) :]
        place = text.find(request) if request else -1
        if place < 0:
            raise DataError(
                f"{self.chat.place}: the chat begins with the {LEARNT}'s turn, and the chat "
                f"template of {self.template.name} does not show where it begins; put a message of "
                "the user's or the system's before it"
            )
        return text[: place + len(request)]

    def _refuse_other_beginning(self, number: int, asked: str, text: str) -> None:
        same = next(
            (n for n, (one, other) in enumerate(zip(asked, text, strict=False)) if one != other),
            min(len(asked), len(text)),
        )
        self._refuse_unrendered_calls(number, text[same:])
        raise DataError(
            f"{self.chat.place}: the chat template of {self.template.name} asks for messages"
            f"[{number}] with {asked[same:][:_SHOWN]!r} where it renders the turn itself as "
            f"{text[same:][:_SHOWN]!r}, so what is learnt would not be what the model is asked "
            "for; name a template that renders a turn as it asks for it, or put {% generation %} "
            "... {% endgeneration %} around what is to be learnt"
        )

    def _note_header(self, number: int, said: str) -> None:
        message = self.chat.messages[number]
        content = message.get("content")
        if isinstance(content, str) and content.strip() and not thoughts_of(message):
            header = said.partition(content.strip())[0]
            if header.strip() and header != said:
                self.met.add(HEADER, self.chat.place, repr(header[:_SHOWN]))

    def _compare(self, number: int, said: str) -> None:
        """What the message says with what is learnt of it."""
        self._refuse_unrendered_calls(number, said)
        message, place = self.chat.messages[number], self.chat.place
        thoughts, content = thoughts_of(message).strip(), message.get("content")
        if thoughts and thoughts not in said:
            self.met.add(THOUGHTS_LOST, place, repr(thoughts[:_SHOWN]))
        if isinstance(content, str):
            # What was thought may be there in another form.
            spoken = content.rpartition("</think>")[2].strip()
            if spoken not in said:
                self.met.add(CONTENT_CHANGED, place, repr(spoken[:_SHOWN]))

    def _refuse_unrendered_calls(self, number: int, said: str) -> None:
        for name in call_names(self.chat.messages[number]):
            if name not in said:
                raise DataError(
                    f"{self.chat.place}: messages[{number}].tool_calls: the chat template of "
                    f"{self.template.name} renders no call of {name}, so the turn would be learnt "
                    "without it; name a template that renders calls, or take the row out"
                )

    def refuse_unrendered_tools(self, text: str) -> None:
        for name in tool_names(self.chat.tools):
            if name not in text:
                raise DataError(
                    f"{self.chat.place}: tools: the chat template of {self.template.name} does not "
                    f"render {name}; name a template that renders tools, or take them out of the "
                    "row"
                )


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
