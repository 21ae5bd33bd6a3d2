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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dougong.data.chats.image_files import images_digest
from dougong.data.chats.images import (
    ImageForm,
    StoredImages,
    open_images,
    write_images,
)
from dougong.data.chats.packing import BEGINS, TARGET, sequences
from dougong.data.chats.parts import ImageName
from dougong.data.chats.rows import Chat, chat_files, find_images, read_chats
from dougong.data.chats.template import ChatTokenizer, Encoded
from dougong.data.documents.text import content_digest
from dougong.data.samples.image_batch import ImageBatch
from dougong.data.samples.marks import IGNORED, positions_within
from dougong.data.token_cache import dtype_of, make_entry, write_described, write_json
from dougong.data.token_files import TokenFile, Tokenized, open_described
from dougong.errors import DataError
from dougong.remarks import Remarks

# Part of the cache's key: raise it when the same chats would give other sequences.
_FORMAT = "dougong chats 1"
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
        length = ids.shape[1]
        flags = np.stack([self.flags.read(start * length, length) for start in windows.tolist()])
        labels = np.where(flags & TARGET, ids, IGNORED)
        return labels, positions_within(flags & BEGINS) if self.is_packed else None

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
    """What was met: chats, and of them those that were cut, and those of which nothing was left
    to learn."""

    chats: int = 0
    tokens: int = 0
    targets: int = 0
    cut: int = 0
    first_cut: str = ""
    left_out: int = 0
    images: int = 0
    image_tokens: int = 0

    def remarks(self, name: str, length: int) -> Remarks:
        note = (
            f"{name}: {self.chats:,} chats, {self.tokens:,} tokens, of which {self.targets:,} are "
            "the assistant's and learnt"
        )
        if self.images:
            note += (
                f"; {self.images:,} images, which are {self.image_tokens:,} of the tokens (what "
                "the tower takes while it looks at them is not in a plan's memory)"
            )
        if not self.cut:
            return Remarks(notes=(note,))
        warning = (
            f"{name}: {self.cut:,} of {self.chats:,} chats are longer than data.sequence_length "
            f"{length} and cut there (the first: {self.first_cut}), {self.left_out:,} of them left "
            "out, since no target was left: raise it, or take them out"
        )
        return Remarks(notes=(note,), warnings=(warning,))


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
    `open_images`: how their images do, asked where they have one, with the first."""

    tokenizer: ChatTokenizer
    num_ids: int
    length: int
    is_packed: bool
    open_images: Callable[[ImageName], ImageForm]


def open_chats(name: str, form: ChatForm, cache: Path | None) -> StoredChats:
    """The chats of `data.chat` as sequences, from `cache` or made now. Raises DataError for a row
    that is no chat, has no target, or an image that cannot be had, and for a cache that cannot be
    written."""
    files, tokenizer = chat_files(name), form.tokenizer
    about = f"{name} ({tokenizer.name})"
    identity = [_FORMAT, tokenizer.digest, content_digest(files), form.length, form.is_packed]
    named = list(find_images(files))
    images = form.open_images(named[0]) if named else None
    if images is not None:
        identity += [images.processor.digest, images.token, images_digest(named)]
    key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()

    def write(folder: Path) -> None:
        told = _write(folder, _ChatsToWrite(files, form, images))
        if told.targets == 0:
            raise DataError(
                f"{about}: there is no chat to learn from in it ({told.chats} chats); give a file "
                "that has some, or raise data.sequence_length"
            )

    entry = make_entry(cache, f"chats-{key}", about, write)
    told = _Tally(**json.loads((entry / "told.json").read_text()))
    tokens = open_described(entry / "tokens.bin")
    flags, counts = open_described(entry / "flags.bin"), open_described(entry / "counts.bin")
    stored = None if images is None else open_images(entry, images, files)
    return StoredChats(
        about,
        dataclasses.replace(tokens, made_of=Tokenized(name, tokenizer.name, form.num_ids)),
        Marks(flags, counts, form.is_packed, stored),
        told.remarks(name, form.length),
    )


@dataclass(frozen=True)
class _ChatsToWrite:
    """Chats that are being made into sequences."""

    files: list[Path]
    form: ChatForm
    images: ImageForm | None

    def encoded(self) -> Iterator[tuple[Chat, Encoded]]:
        """All chats, in order."""
        chats, encode = read_chats(self.files), self.form.tokenizer.encode
        while some := list(itertools.islice(chats, _AT_ONCE)):
            if self.images is None:
                yield from ((chat, encode(chat)) for chat in some)
                continue
            names = itertools.chain.from_iterable(chat.images for chat in some)
            kept = iter(self.images.read(list(names)))
            for chat in some:
                of_chat = list(itertools.islice(kept, len(chat.images)))
                yield chat, self.images.expand(chat, encode(chat), of_chat)


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
            images = open_files.enter_context(write_images(folder, source.files))
        for one in made:
            tokens.write(one.ids)
            flags.write(one.flags)
            counts.write(np.array([one.num_targets]))
            if images is not None:
                images.write(one.images)
            told.targets += one.num_targets
    write_json(folder / "told.json", dataclasses.asdict(told))
    return told


def _fitting(source: _ChatsToWrite, told: _Tally) -> Iterator[Encoded]:
    """Chats of at most as many ids as a sequence has; longer ones are cut, and told."""
    length = source.form.length
    for chat, encoded in source.encoded():
        told.chats += 1
        if encoded.ids.size > length:
            told.cut += 1
            told.first_cut = told.first_cut or f"{chat.place}, {encoded.ids.size} tokens"
            encoded = encoded.cut(length)
            if not encoded.is_target.any():
                told.left_out += 1
                continue
        told.tokens += encoded.ids.size
        told.images += len(encoded.images)
        told.image_tokens += sum(one.end - one.begin for one in encoded.images)
        yield encoded
