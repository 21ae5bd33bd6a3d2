"""A chat as token ids, by the chat template of its tokenizer, and which of them are learnt.

What the assistant says is found by the template's own generation marks (`{% generation %}`), else
by rendering the chat up to each of its turns: what is rendered with the request for a turn, and
with that turn, must be the beginning of the whole. Where it is not (a template that leaves out
earlier thoughts), the row is refused: transformers' own mask would be all zero with a warning.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dougong.data.chats.parts import ImageName
from dougong.data.chats.rows import LEARNT, Chat
from dougong.data.special_tokens import read_object
from dougong.errors import DataError
from dougong.job.tokenizer_choice import BYTES

_MARKS = re.compile(r"\{\%-?\s*generation\s*-?\%\}")
_TEMPLATE = "chat_template.jinja"
_OF_PROCESSOR = "chat_template.json"
"""Where older folders of models that see have it."""
_PROBE = "dougong"
_PARTS = [{"type": "text", "text": _PROBE}]


@dataclass(frozen=True)
class KeptImage:
    """An image as it was when its chat was read. `digest`: of its bytes; `pixels`: digest of what
    the tower gets; `grid`: its patches in time, height and width."""

    name: ImageName
    digest: str
    pixels: str
    grid: tuple[int, int, int]


@dataclass(frozen=True)
class PlacedImage:
    """The tokens `begin .. end` of a chat stand for it."""

    begin: int
    end: int
    image: KeptImage


@dataclass(frozen=True)
class Encoded:
    """`ids`: int64 [tokens]; `is_target`: bool [tokens], which of them are learnt; `images`: those
    that some of them stand for, in order."""

    ids: npt.NDArray[np.int64]
    is_target: npt.NDArray[np.bool_]
    images: tuple[PlacedImage, ...] = ()

    def cut(self, length: int) -> Encoded:
        """At most so many of its first tokens; an image that does not fit goes whole."""
        for one in self.images:
            if one.begin < length < one.end:
                length = one.begin
        images = tuple(one for one in self.images if one.end <= length)
        return Encoded(self.ids[:length], self.is_target[:length], images)


@dataclass(frozen=True)
class ChatTokenizer:
    """`name`: what a person knows it by; `model`: transformers' tokenizer with its template;
    `text_digest`: of how it makes ids of text."""

    name: str
    model: Any
    text_digest: str

    @property
    def digest(self) -> str:
        """Of everything that ids and marks depend on beside the chat."""
        model = self.model
        identity = json.dumps([self.text_digest, model.chat_template, model.special_tokens_map])
        return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()

    @property
    def padding(self) -> int:
        """The id that fills a sequence up; nothing is learnt there, and nothing looks at it."""
        for known in (self.model.pad_token_id, self.model.eos_token_id):
            if known is not None:
                return int(known)
        return 0

    def encode(self, chat: Chat) -> Encoded:
        """Raises DataError with the row's place where the template fails, or no target is found."""
        ids, mask = self._marked(chat) if _MARKS.search(self._template) else self._by_turns(chat)
        is_target = np.array(mask, dtype=np.bool_)
        is_target[:1] = False  # nothing comes before it, by which it could be foretold
        if not is_target.any():
            raise DataError(
                f"{chat.place}: the chat template of {self.name} renders no token of the "
                f"{LEARNT}'s, so nothing would be learnt; take the row out, or mend the template's "
                "{% generation %} marks"
            )
        return Encoded(np.array(ids, dtype=np.int64), is_target)

    @property
    def _template(self) -> str:
        return str(self.model.chat_template)

    def _marked(self, chat: Chat) -> tuple[list[int], list[int]]:
        found = self._render(chat, len(chat.messages), return_assistant_tokens_mask=True)
        return found["input_ids"], found["assistant_masks"]

    def _by_turns(self, chat: Chat) -> tuple[list[int], list[int]]:
        ids = self._render(chat, len(chat.messages))["input_ids"]
        mask = [0] * len(ids)
        for number, message in enumerate(chat.messages):
            if message["role"] == LEARNT:
                begin = self._length(chat, ids, number, add_generation_prompt=True)
                end = self._length(chat, ids, number + 1, add_generation_prompt=False)
                mask[begin:end] = [1] * (end - begin)
        return ids, mask

    def _length(self, chat: Chat, whole: list[int], count: int, add_generation_prompt: bool) -> int:
        """How many ids the first messages are. DataError where they are not the whole's first."""
        if count == len(chat.messages):
            return len(whole)
        part = self._render(chat, count, add_generation_prompt=add_generation_prompt)["input_ids"]
        if whole[: len(part)] != part:
            raise DataError(
                f"{chat.place}: the chat template of {self.name} renders its first {count} "
                f"messages otherwise alone than in the whole chat, so it cannot be told what the "
                f"{LEARNT} says; put {{% generation %}} ... {{% endgeneration %}} around that in "
                "the template, or cut the chat into rows that end with one turn each"
            )
        return len(part)

    def _render(self, chat: Chat, count: int, **how: Any) -> Any:
        messages = [self._message(chat, message) for message in chat.messages[:count]]
        try:
            return self.model.apply_chat_template(
                messages, tools=list(chat.tools) or None, tokenize=True, return_dict=True, **how
            )
        except Exception as error:  # a template raises whatever it likes
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
            raise DataError(
                f"{chat.place}: the chat template of {self.name} fails ({reason}); mend the row, "
                "or the template"
            ) from error

    def _message(self, chat: Chat, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message as the template takes it: one that knows no parts gets the text of them all."""
        content = message.get("content")
        if not isinstance(content, list) or self._takes_parts(message["role"]):
            return dict(message)
        if any(part["type"] != "text" for part in content):
            raise DataError(
                f"{chat.place}: the chat template of {self.name} takes only text of the role "
                f"{message['role']}, and an image is there; take the row out, or name a template "
                "that renders images"
            )
        return {**message, "content": "".join(part["text"] for part in content)}

    @functools.cached_property
    def _takes_parts(self) -> Callable[[str], bool]:
        """Whether the template renders a part with a text of this role as it renders the text."""

        @functools.cache
        def takes(role: str) -> bool:
            text = self._rendered(role, _PROBE)
            return text is not None and _PROBE in text and text == self._rendered(role, _PARTS)

        return takes

    def _rendered(self, role: str, content: Any) -> str | None:
        """A chat with this content where the role has its place; None where that fails."""
        asked, answer = ({"role": name, "content": "a"} for name in ("user", LEARNT))
        messages = [{"role": role, "content": content}]
        if role == LEARNT:
            messages = [asked, *messages]
        elif role == "tool":
            messages = [asked, answer, *messages]
        elif role != "user":
            messages = [*messages, asked]
        try:
            return str(self.model.apply_chat_template(messages, tokenize=False))
        except Exception:  # a template raises whatever it likes
            return None


def open_chat_tokenizer(name: str, text_digest: str) -> ChatTokenizer:
    """The tokenizer of a Hugging Face folder, or of the folder of a tokenizer.json, with its chat
    template. Raises DataError where there is none."""
    path = Path(name).expanduser()
    folder = path if path.is_dir() else path.parent
    remedy = f"name the folder of an instruct model in data.tokenizer, or put a {_TEMPLATE} there"
    if name == BYTES:
        raise DataError(f"data.chat: the tokenizer `bytes` has no chat template; {remedy}")
    from transformers import AutoTokenizer

    try:
        model = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"data.chat: {folder}: transformers finds no tokenizer here "
            f"({str(error).splitlines()[0]}); {remedy}"
        ) from error
    if not model.chat_template:
        model.chat_template = read_object(folder / _OF_PROCESSOR).get("chat_template")
    if not model.chat_template:
        raise DataError(f"data.chat: the tokenizer {name} has no chat template; {remedy}")
    if isinstance(model.chat_template, dict):
        raise DataError(
            f"data.chat: the tokenizer {name} has several chat templates "
            f"({', '.join(model.chat_template)}); keep one, as {_TEMPLATE}"
        )
    return ChatTokenizer(name, model, text_digest)
