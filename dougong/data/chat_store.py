"""Chats in the cache: sequences of one length as a token file, and files of flags and of counts
beside it. Imports no torch.

A cache entry holds `tokens.bin` (ids), `flags.bin` (uint8, one a token) and `counts.bin` (uint32,
targets of each sequence), each with its description, and `told.json`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dougong.data.chat_rows import chat_files, read_chats
from dougong.data.chat_template import ChatTokenizer, Encoded
from dougong.data.documents.text import content_digest
from dougong.data.packing import BEGINS, TARGET, sequences
from dougong.data.samples.marks import IGNORED, positions_within
from dougong.data.token_cache import dtype_of, make_entry, write_described, write_json
from dougong.data.token_files import TokenFile, Tokenized, open_described
from dougong.errors import DataError
from dougong.remarks import Remarks

# Part of the cache's key: raise it when the same chats would give other sequences.
_FORMAT = "dougong chats 1"


@dataclass(frozen=True, eq=False)
class Marks:
    """What is known of sequences beside their ids. `flags`: one a token; `counts`: targets, one a
    sequence; `is_packed`: whether several documents may lie in one."""

    flags: TokenFile
    counts: TokenFile
    is_packed: bool

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

    def digest(self) -> str:
        return f"{self.flags.digest()} {self.is_packed}"


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

    def remarks(self, name: str, length: int) -> Remarks:
        note = (
            f"{name}: {self.chats:,} chats, {self.tokens:,} tokens, of which {self.targets:,} are "
            "the assistant's and learnt"
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
    """How chats become sequences. `length`: of each, in ids; `num_ids`: the tokenizer's."""

    tokenizer: ChatTokenizer
    num_ids: int
    length: int
    is_packed: bool


def open_chats(name: str, form: ChatForm, cache: Path | None) -> StoredChats:
    """The chats of `data.chat` as sequences, from `cache` or made now. Raises DataError for a row
    that is no chat, or has no target, and for a cache that cannot be written."""
    files, tokenizer = chat_files(name), form.tokenizer
    about = f"{name} ({tokenizer.name})"
    identity = [_FORMAT, tokenizer.digest, content_digest(files), form.length, form.is_packed]
    key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()

    def write(folder: Path) -> None:
        told = _write(folder, files, form)
        if told.targets == 0:
            raise DataError(
                f"{about}: there is no chat to learn from in it ({told.chats} chats); give a file "
                "that has some, or raise data.sequence_length"
            )

    entry = make_entry(cache, f"chats-{key}", about, write)
    told = _Tally(**json.loads((entry / "told.json").read_text()))
    tokens = open_described(entry / "tokens.bin")
    flags, counts = open_described(entry / "flags.bin"), open_described(entry / "counts.bin")
    return StoredChats(
        about,
        dataclasses.replace(tokens, made_of=Tokenized(name, tokenizer.name, form.num_ids)),
        Marks(flags, counts, form.is_packed),
        told.remarks(name, form.length),
    )


def _write(folder: Path, files: list[Path], form: ChatForm) -> _Tally:
    told = _Tally()
    chats = _fitting(files, form, told)
    made = sequences(chats, form.length, form.tokenizer.padding, form.is_packed)
    with (
        write_described(folder / "tokens.bin", dtype_of(form.num_ids)) as tokens,
        write_described(folder / "flags.bin", "uint8") as flags,
        write_described(folder / "counts.bin", "uint32") as counts,
    ):
        for one in made:
            tokens.write(one.ids)
            flags.write(one.flags)
            counts.write(np.array([one.num_targets]))
            told.targets += one.num_targets
    write_json(folder / "told.json", dataclasses.asdict(told))
    return told


def _fitting(files: list[Path], form: ChatForm, told: _Tally) -> Iterator[Encoded]:
    """Chats of at most `form.length` ids; longer ones are cut, and told."""
    length = form.length
    for chat in read_chats(files):
        encoded = form.tokenizer.encode(chat)
        told.chats += 1
        if encoded.ids.size > length:
            told.cut += 1
            told.first_cut = told.first_cut or f"{chat.place}, {encoded.ids.size} tokens"
            encoded = Encoded(encoded.ids[:length], encoded.is_target[:length])
            if not encoded.is_target.any():
                told.left_out += 1
                continue
        told.tokens += encoded.ids.size
        yield encoded
