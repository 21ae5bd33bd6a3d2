"""Chats in the cache: sequences of one length as a token file, and files of flags and of counts
beside it. Imports no torch.

A cache entry holds `tokens.bin` (ids), `flags.bin` (uint8, one a token) and `counts.bin` (uint32,
targets of each sequence), each with its description, and `told.json`; of chats with images also
what `images.py` writes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dougong.data.chats.faults import Faults
from dougong.data.chats.image_files import images_digest
from dougong.data.chats.images import (
    ImageForm,
    StoredImages,
    open_images,
    write_images,
)
from dougong.data.chats.met import UNREAD, Met, named, numbered, read_met
from dougong.data.chats.packing import BEGINS, PADDING, TARGET, sequences
from dougong.data.chats.parts import ImageName
from dougong.data.chats.rows import (
    Chat,
    ReadFiles,
    chat_beginning,
    chat_files,
    find_images,
    read_chats,
)
from dougong.data.chats.template import ChatTokenizer, Encoded, KeptImage
from dougong.data.documents.text import content_digest
from dougong.data.samples.image_batch import ImageBatch
from dougong.data.samples.marks import IGNORED, positions_within
from dougong.data.token_cache import dtype_of, make_entry, write_described, write_json
from dougong.data.token_files import TokenFile, Tokenized, open_described
from dougong.errors import DataError
from dougong.remarks import Remarks

# Part of the cache's key: raise it when the same chats would give other sequences.
_FORMAT = "dougong chats 2"
_MUCH_PADDING = 0.5
_AT_ONCE = 32
"""Chats whose images are read side by side."""


@dataclass(frozen=True, eq=False)
class Marks:
    """What is known of sequences beside their ids. `flags`: one a token; `counts`: targets, one a
    sequence; `is_packed`: whether several documents may lie in one; `images`: theirs (None: no chat
    has one)."""

    flags: TokenFile
    counts: TokenFile
    is_packed: bool
    images: StoredImages | None = None

    def labels_and_positions(
        self, ids: npt.NDArray[np.int64], windows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
        """Of these sequences: `ids` [sequences, length] where they are learnt, elsewhere IGNORED;
        and each token's position in its own document, from 0 (None where a sequence holds one
        alone)."""
        flags = self._flags(windows, ids.shape[1])
        labels = np.where(flags & TARGET, ids, IGNORED)
        return labels, positions_within(flags & BEGINS) if self.is_packed else None

    def padding(self, windows: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.bool_] | None:
        """Which tokens of these sequences only fill them up, bool [sequences, length]; None where
        there are none."""
        found = (self._flags(windows, length) & PADDING).astype(np.bool_)
        return found if found.any() else None

    def _flags(self, windows: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
        return np.stack([self.flags.read(start * length, length) for start in windows.tolist()])

    def num_targets(self, windows: npt.NDArray[np.int64]) -> int:
        """Of all these sequences together."""
        return int(self.counts.ids[windows].astype(np.int64).sum())

    def images_of(
        self, ids: npt.NDArray[np.int64], windows: npt.NDArray[np.int64]
    ) -> ImageBatch | None:
        """Of these sequences, which hold `ids`. Raises DataError."""
        return None if self.images is None else self.images.batch(ids, windows)

    def digest(self) -> str:
        digest = f"{self.flags.digest()} {self.is_packed}"
        return digest if self.images is None else f"{digest} {self.images.digest}"


@dataclass
class _Tally:
    """What was met: chats, and of their sequences those that were cut, and those of which nothing
    was left to learn."""

    chats: int = 0
    sequences: int = 0
    tokens: int = 0
    targets: int = 0
    longest: int = 0
    cut: int = 0
    first_cut: str = ""
    left_out: int = 0
    lost: int = 0
    lost_targets: int = 0
    images: int = 0
    image_tokens: int = 0
    least_image: int = 0
    most_image: int = 0
    lost_images: int = 0

    def remarks(self, name: str, form: ChatForm) -> Remarks:
        note = (
            f"{name}: {self.chats:,} chats, {self.tokens:,} tokens, of which {self.targets:,} are "
            f"the assistant's and learnt; {self.sequences:,} sequences of {form.length}, "
            f"{self._padded(form.length):.0%} of them padding{self._remedy(form)}"
        )
        if self.images:
            note += (
                f"; {self.images:,} images, which are {self.image_tokens:,} of the tokens, from "
                f"{self.least_image:,} to {self.most_image:,} each (what the tower takes while it "
                "looks at them is not in a plan's memory)"
            )
        if not self.cut:
            return Remarks(notes=(note,))
        of_targets = self.lost_targets / (self.targets + self.lost_targets)
        images = f" and {self.lost_images:,} images" if self.lost_images else ""
        warning = (
            f"{name}: {self.cut:,} of {self.chats:,} chats are longer than data.sequence_length "
            f"{form.length} and cut there (the first: {self.first_cut}), {self.left_out:,} of them "
            f"left out, since no target was left; {self.lost_targets:,} targets "
            f"({of_targets:.1%} of all){images} are lost so: raise it, or take them out"
        )
        return Remarks(notes=(note,), warnings=(warning,))

    def count_images(self, kept: Encoded) -> None:
        for one in kept.images:
            size = one.end - one.begin
            self.images += 1
            self.image_tokens += size
            self.least_image = min(self.least_image or size, size)
            self.most_image = max(self.most_image, size)

    def _padded(self, length: int) -> float:
        return 1 - self.tokens / max(self.sequences * length, 1)

    def _remedy(self, form: ChatForm) -> str:
        """What would help where most is padding."""
        if form.is_packed or self._padded(form.length) < _MUCH_PADDING:
            return ""
        return (
            f", which is computed like all else (the longest has {self.longest} tokens): "
            "data.packing: true puts several chats into one, data.sequence_length may be lower"
        )


@dataclass(frozen=True, eq=False)
class StoredChats:
    """Chats as sequences; `tokens` is a whole number of them."""

    name: str
    tokens: TokenFile
    marks: Marks
    remarks: Remarks


@dataclass(frozen=True)
class ChatForm:
    """How chats become sequences. `length`: of each, in ids; `num_ids`: the tokenizer's;
    `open_images`: how their images do, asked where they have one, with the first; `seen_tokens`:
    ids that stand for parts of images and videos, with their names, which no text may hold."""

    tokenizer: ChatTokenizer
    num_ids: int
    length: int
    is_packed: bool
    open_images: Callable[[ImageName], ImageForm]
    seen_tokens: Mapping[int, str] = dataclasses.field(default_factory=dict)


def open_chats(name: str, form: ChatForm, cache: Path | None) -> StoredChats:
    """The chats of `data.chat` as sequences, from `cache` or made now. Raises DataError for a row
    that is no chat, has no target, or an image that cannot be had, and for a cache that cannot be
    written."""
    files, tokenizer = chat_files(name), form.tokenizer
    about = f"{name} ({tokenizer.name})"
    content = content_digest(files)
    identity = _identity(form, content)
    found = list(find_images(files))
    images = form.open_images(found[0]) if found else None
    if images is not None:
        identity += [images.processor.digest, images.token, images_digest(found)]
    key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()

    def write(folder: Path) -> None:
        source = _ChatsToWrite(ReadFiles(files), form, images)
        told = _write(folder, source)
        source.files.refuse_change(content)
        if told.targets == 0:
            raise DataError(
                f"{about}: there is no chat to learn from in it ({told.chats} chats); give a file "
                "that has some, or raise data.sequence_length"
            )

    entry = make_entry(cache, f"chats-{key}", about, write)
    tokens = open_described(entry / "tokens.bin")
    flags, counts = open_described(entry / "flags.bin"), open_described(entry / "counts.bin")
    stored = None if images is None else open_images(entry, images, files)
    return StoredChats(
        about,
        dataclasses.replace(tokens, made_of=Tokenized(name, tokenizer.name, form.num_ids)),
        Marks(flags, counts, form.is_packed, stored),
        _remarks(entry, name, files, form),
    )


def _identity(form: ChatForm, content: str) -> list[Any]:
    """What sequences of chats without images depend on. `content`: digest of the files."""
    found: list[Any] = [_FORMAT, form.tokenizer.digest, content, form.length, form.is_packed]
    return [*found, sorted(form.seen_tokens)] if form.seen_tokens else found


def _remarks(entry: Path, name: str, files: list[Path], form: ChatForm) -> Remarks:
    """What was told when the entry was made, with the names that its files have now."""
    told = _Tally(**json.loads((entry / "told.json").read_text()))
    told.first_cut = named(told.first_cut, files)
    return told.remarks(name, form) + read_met(entry / "met.json", files).remarks(name)


@dataclass(frozen=True)
class _ChatsToWrite:
    """Chats that are being made into sequences. `met`: what is met in them."""

    files: ReadFiles
    form: ChatForm
    images: ImageForm | None
    met: Met = dataclasses.field(default_factory=Met)
    faults: Faults = dataclasses.field(default_factory=Faults)

    def encoded(self) -> Iterator[tuple[Chat, list[Encoded]]]:
        """All chats with their sequences, in order. DataError at the end for rows that are
        refused."""
        for kind, example in self.form.tokenizer.template.look_at_marks().items():
            self.met.add(kind, "", example)
        chats = read_chats(self.files, self.faults)
        while some := list(itertools.islice(chats, _AT_ONCE)):
            names = itertools.chain.from_iterable(chat.images for chat in some)
            kept = iter(self.images.read(list(names)) if self.images is not None else [])
            for chat in some:
                of_chat = list(itertools.islice(kept, len(chat.images)))
                try:
                    yield chat, self._sequences(chat, of_chat)
                except DataError as error:
                    self.faults.add(chat.place, error)
        self.faults.check()

    def _sequences(self, chat: Chat, kept: list[KeptImage]) -> list[Encoded]:
        tokenizer = self.form.tokenizer
        found = tokenizer.encode(chat, self.met)
        for one in found:
            self._refuse_seen(chat, one)
        for key in chat.other_keys:
            if not tokenizer.template.reads(key):
                self.met.add(UNREAD + key, chat.place)
        if self.images is None:
            return found
        parts = [chat_beginning(chat, one.num_messages) for one in found]
        return [
            self.images.expand(part, one, kept[: len(part.images)])
            for part, one in zip(parts, found, strict=True)
        ]

    def _refuse_seen(self, chat: Chat, encoded: Encoded) -> None:
        """The tokens of a chat's own images are counted when they are expanded."""
        own = self.images.token if self.images is not None and chat.images else None
        for token, name in self.form.seen_tokens.items():
            if token != own and (encoded.ids == token).any():
                raise DataError(
                    f"{chat.place}: a text of it holds {name} ({token}), which stands for a part "
                    "of an image or a video and is none here; take it out of the text, or give "
                    'the image itself, {"type": "image", "image": PATH}'
                )


def _write(folder: Path, source: _ChatsToWrite) -> _Tally:
    told, form = _Tally(), source.form
    chats = _fitting(source, told)
    made = sequences(chats, form.length, form.tokenizer.padding, form.is_packed)
    with ExitStack() as open_files:
        tokens, flags, counts = (
            open_files.enter_context(write_described(folder / f"{name}.bin", dtype))
            for name, dtype in (
                ("tokens", dtype_of(form.num_ids)),
                ("flags", "uint8"),
                ("counts", "uint32"),
            )
        )
        images = None
        if source.images is not None:
            images = open_files.enter_context(write_images(folder, source.files.files))
        for one in made:
            tokens.write(one.ids)
            flags.write(one.flags)
            counts.write(np.array([one.num_targets]))
            if images is not None:
                images.write(one.images)
            told.targets += one.num_targets
            told.sequences += 1
    told.first_cut = numbered(told.first_cut, source.files.files)
    write_json(folder / "told.json", dataclasses.asdict(told))
    source.met.write(folder / "met.json", source.files.files)
    return told


def _fitting(source: _ChatsToWrite, told: _Tally) -> Iterator[Encoded]:
    """Sequences of at most as many ids as the form says; longer ones are cut, and told."""
    for chat, found in source.encoded():
        told.chats += 1
        for one in found:
            kept = _cut(chat.place, one, source.form.length, told)
            if kept.is_target.any():
                told.tokens += kept.ids.size
                told.longest = max(told.longest, kept.ids.size)
                told.count_images(kept)
                yield kept


def _cut(place: str, encoded: Encoded, length: int, told: _Tally) -> Encoded:
    if encoded.ids.size <= length:
        return encoded
    told.cut += 1
    told.first_cut = told.first_cut or f"{place}, {encoded.ids.size} tokens"
    kept = encoded.cut(length)
    told.lost += encoded.ids.size - kept.ids.size
    told.lost_images += len(encoded.images) - len(kept.images)
    told.lost_targets += int(encoded.is_target.sum() - kept.is_target.sum())
    if not kept.is_target.any():
        told.left_out += 1
    return kept
