"""A chat as token ids, by the chat template of its tokenizer, and which of them are learnt."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dougong.data.chats.clock import at_date
from dougong.data.chats.met import Met
from dougong.data.chats.parts import ImageName
from dougong.data.chats.rendering import ChatTemplate
from dougong.data.chats.rows import LEARNT, Chat
from dougong.data.chats.turns import LearntText, learnt_texts
from dougong.data.special_tokens import read_object
from dougong.errors import DataError
from dougong.job.tokenizer_choice import BYTES

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
    that some of them stand for, in order; `num_messages`: how many of the chat's they are (0: not
    known)."""

    ids: npt.NDArray[np.int64]
    is_target: npt.NDArray[np.bool_]
    images: tuple[PlacedImage, ...] = ()
    num_messages: int = 0

    def cut(self, length: int) -> Encoded:
        """At most so many of its first tokens; an image that does not fit goes whole."""
        for one in self.images:
            if one.begin < length < one.end:
                length = one.begin
        images = tuple(one for one in self.images if one.end <= length)
        return Encoded(self.ids[:length], self.is_target[:length], images, self.num_messages)


@dataclass(frozen=True)
class ChatTokenizer:
    """`name`: what a person knows it by; `model`: transformers' tokenizer with its template;
    `text_digest`: of how it makes ids of text; `arguments`: what its template is given
    besides (`data.chat_arguments`)."""

    name: str
    model: Any
    text_digest: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

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
            dict(self.arguments),
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

    @functools.cached_property
    def template(self) -> ChatTemplate:
        model, source = self.model, self.model.chat_template
        values = {**model.special_tokens_map, **self.arguments}
        if isinstance(source, str):
            return ChatTemplate(self.name, source, source, values)
        default = source["default"]
        return ChatTemplate(self.name, default, source.get("tool_use", default), values)

    def encode(self, chat: Chat, met: Met | None = None) -> list[Encoded]:
        """Its sequences: one, where the template renders a turn alike whatever follows it. Raises
        DataError with the row's place where the template fails, or no target is found."""
        messages = tuple(self._message(chat, message) for message in chat.messages)
        texts = learnt_texts(self.template, replace(chat, messages=messages), met or Met())
        return [self._encoded(chat, one) for one in texts]

    def _encoded(self, chat: Chat, learnt: LearntText) -> Encoded:
        found = self.model(
            learnt.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids = np.array(found["input_ids"], dtype=np.int64)
        offsets = np.array(found["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        is_target = _inside(offsets, learnt.spans)
        is_target[:1] = False  # nothing comes before it, by which it could be foretold
        if not is_target.any():
            raise DataError(
                f"{chat.place}: the chat template of {self.name} renders no token of the "
                f"{LEARNT}'s, so nothing would be learnt; take the row out, or mend the template's "
                "{% generation %} marks"
            )
        return Encoded(ids, is_target, num_messages=learnt.num_messages)

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


def _inside(
    offsets: npt.NDArray[np.int64], spans: tuple[tuple[int, int], ...]
) -> npt.NDArray[np.bool_]:
    """Which tokens have a character of the spans. `offsets`: characters begin .. end of each [T,
    2]."""
    ends = np.maximum.accumulate(offsets[:, 1])
    # Some tokenizers leave spaces out of a token's place: it begins where the one before ends.
    begins = np.minimum(offsets[:, 0], np.concatenate([[0], ends[:-1]]))
    found = np.zeros(len(offsets), dtype=np.bool_)
    for begin, end in spans:
        found |= (ends > begin) & (begins < end)
    return found


def open_chat_tokenizer(
    name: str,
    text_digest: str,
    date: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> ChatTokenizer:
    """The tokenizer of a Hugging Face folder, or of the folder of a tokenizer.json, with its chat
    template, which is given `arguments` and writes `date` where it would read the clock. Raises
    DataError where there is none, or it reads no such argument."""
    path = Path(name).expanduser()
    folder = path if path.is_dir() else path.parent
    remedy = f"name the folder of an instruct model in data.tokenizer, or put a {_TEMPLATE} there"
    if name == BYTES:
        raise DataError(f"data.chat: the tokenizer `bytes` has no chat template; {remedy}")
    model = _load(folder, remedy)
    if not model.chat_template:
        model.chat_template = read_object(folder / _OF_PROCESSOR).get("chat_template")
    if not model.chat_template:
        raise DataError(f"data.chat: the tokenizer {name} has no chat template; {remedy}")
    if isinstance(model.chat_template, dict) and "default" not in model.chat_template:
        raise DataError(
            f"data.chat: the tokenizer {name} has several chat templates, none of them `default` "
            f"({', '.join(model.chat_template)}); keep one, as {_TEMPLATE}"
        )
    model.chat_template = _at_date(model.chat_template, date, name)
    tokenizer = ChatTokenizer(name, model, text_digest, arguments or {})
    for key in tokenizer.arguments:
        if not tokenizer.template.reads(key):
            raise DataError(
                f"data.chat_arguments: the chat template of {name} reads no `{key}`; take it out, "
                "or look into the template what it is called"
            )
    tokenizer.template.refuse_broken()
    tokenizer.template.look_at_marks()
    return tokenizer


def _at_date(templates: Any, date: str | None, name: str) -> Any:
    if isinstance(templates, str):
        return at_date(templates, date, name)
    return {key: at_date(one, date, name) for key, one in templates.items()}


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
