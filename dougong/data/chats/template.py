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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dougong.data.chats.rows import LEARNT, Chat
from dougong.data.special_tokens import read_object
from dougong.errors import DataError
from dougong.job.tokenizer_choice import BYTES

_MARKS = re.compile(r"\{\%-?\s*generation\s*-?\%\}")
_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class Encoded:
    """`ids`: int64 [tokens]; `is_target`: bool [tokens], which of them are learnt."""

    ids: npt.NDArray[np.int64]
    is_target: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ChatTokenizer:
    """`name`: what a person knows it by; `model`: transformers' tokenizer with its template;
    `text_digest`: of how it makes ids of text."""

    name: str
    model: Any
    text_digest: str

    @functools.cached_property
    def digest(self) -> str:
        """Of everything that ids and marks depend on beside the chat. What transformers adds to
        tokenizer.json (tokens that tokenizer_config.json names) is in its model of it."""
        model = self.model
        identity = [
            self.text_digest,
            model.chat_template,
            model.special_tokens_map,
            model.backend_tokenizer.to_str(),
            model.split_special_tokens,
        ]
        return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()

    @functools.cached_property
    def num_ids(self) -> int:
        """One more than the largest id. Of a tokenizer.json alone it may be less: transformers adds
        the tokens that tokenizer_config.json names."""
        return int(max(self.model.get_vocab().values())) + 1

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
        messages = [dict(message) for message in chat.messages[:count]]
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


def open_chat_tokenizer(name: str, text_digest: str) -> ChatTokenizer:
    """The tokenizer of a Hugging Face folder, or of the folder of a tokenizer.json, with its chat
    template. Raises DataError where there is none."""
    path = Path(name).expanduser()
    folder = path if path.is_dir() else path.parent
    remedy = f"name the folder of an instruct model in data.tokenizer, or put a {_TEMPLATE} there"
    if name == BYTES:
        raise DataError(f"data.chat: the tokenizer `bytes` has no chat template; {remedy}")
    model = _load(folder, remedy)
    if not model.chat_template:
        raise DataError(f"data.chat: the tokenizer {name} has no chat template; {remedy}")
    if isinstance(model.chat_template, dict):
        raise DataError(
            f"data.chat: the tokenizer {name} has several chat templates "
            f"({', '.join(model.chat_template)}); keep one, as {_TEMPLATE}"
        )
    return ChatTokenizer(name, model, text_digest)


def _load(folder: Path, remedy: str) -> Any:
    """transformers' tokenizer of a folder. Raises DataError."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    kinds: list[Any] = [AutoTokenizer]
    has_code = "auto_map" in read_object(folder / "tokenizer_config.json")
    if has_code and (folder / "tokenizer.json").is_file():
        # Its own code is not run, and says nothing that the file does not.
        kinds.append(PreTrainedTokenizerFast)
    for kind in kinds:
        try:
            model = kind.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, ImportError) as error:
            fault, reason = error, str(error).splitlines()[0]
            continue
        if model.is_fast:
            return model
        raise DataError(f"data.chat: {folder}: {type(model).__name__} has no fast form; {remedy}")
    raise DataError(
        f"data.chat: {folder}: transformers finds no tokenizer here ({reason}); {remedy}"
    ) from fault
