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

from dougong.data.chats.faults import Faults
from dougong.data.chats.met import UNREAD, Met, named, numbered, read_met
from dougong.data.chats.packing import BEGINS, PADDING, TARGET, sequences
from dougong.data.chats.rows import ReadFiles, chat_files, read_chats
from dougong.data.chats.template import ChatTokenizer, Encoded
from dougong.data.documents.text import content_digest
from dougong.data.samples.marks import IGNORED, positions_within
from dougong.data.token_cache import dtype_of, make_entry, write_described, write_json
from dougong.data.token_files import TokenFile, Tokenized, open_described
from dougong.errors import DataError
from dougong.remarks import Remarks

# Part of the cache's key: raise it when the same chats would give other sequences.
_FORMAT = "dougong chats 2"
_MUCH_PADDING = 0.5


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

    def digest(self) -> str:
        return f"{self.flags.digest()} {self.is_packed}"


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

    def remarks(self, name: str, form: ChatForm) -> Remarks:
        note = (
            f"{name}: {self.chats:,} chats, {self.tokens:,} tokens, of which {self.targets:,} are "
            f"the assistant's and learnt; {self.sequences:,} sequences of {form.length}, "
            f"{self._padded(form.length):.0%} of them padding{self._remedy(form)}"
        )
        if not self.cut:
            return Remarks(notes=(note,))
        of_targets = self.lost_targets / (self.targets + self.lost_targets)
        warning = (
            f"{name}: {self.cut:,} of {self.chats:,} chats are longer than data.sequence_length "
            f"{form.length} and cut there (the first: {self.first_cut}), {self.left_out:,} of them "
            f"left out, since no target was left; {self.lost_targets:,} targets are lost so "
            f"({of_targets:.1%} of all): raise it, or take them out"
        )
        return Remarks(notes=(note,), warnings=(warning,))

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
    content = content_digest(files)
    identity = [_FORMAT, tokenizer.digest, content, form.length, form.is_packed]
    key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()

    def write(folder: Path) -> None:
        source = ReadFiles(files)
        told = _write(folder, source, form)
        source.refuse_change(content)
        if told.targets == 0:
            raise DataError(
                f"{about}: there is no chat to learn from in it ({told.chats} chats); give a file "
                "that has some, or raise data.sequence_length"
            )

    entry = make_entry(cache, f"chats-{key}", about, write)
    told = _Tally(**json.loads((entry / "told.json").read_text()))
    told.first_cut = named(told.first_cut, files)
    met = read_met(entry / "met.json", files)
    tokens = open_described(entry / "tokens.bin")
    flags, counts = open_described(entry / "flags.bin"), open_described(entry / "counts.bin")
    return StoredChats(
        about,
        dataclasses.replace(tokens, made_of=Tokenized(name, tokenizer.name, form.num_ids)),
        Marks(flags, counts, form.is_packed),
        told.remarks(name, form) + met.remarks(name),
    )


def _write(folder: Path, source: ReadFiles, form: ChatForm) -> _Tally:
    told, met = _Tally(), Met()
    chats = _fitting(source, form, told, met)
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
            told.sequences += 1
    told.first_cut = numbered(told.first_cut, source.files)
    write_json(folder / "told.json", dataclasses.asdict(told))
    met.write(folder / "met.json", source.files)
    return told


def _fitting(source: ReadFiles, form: ChatForm, told: _Tally, met: Met) -> Iterator[Encoded]:
    """Chats of at most `form.length` ids; longer ones are cut, and told. DataError at the end for
    rows that are refused."""
    for place, encoded in _encoded(source, form.tokenizer, told, met):
        if encoded.ids.size > form.length:
            encoded = _cut(place, encoded, form.length, told)
        if encoded.is_target.any():
            told.tokens += encoded.ids.size
            told.longest = max(told.longest, encoded.ids.size)
            yield encoded


def _encoded(
    source: ReadFiles, tokenizer: ChatTokenizer, told: _Tally, met: Met
) -> Iterator[tuple[str, Encoded]]:
    """The sequences of all chats with their rows' places."""
    faults = Faults()
    for kind, example in tokenizer.template.look_at_marks().items():
        met.add(kind, "", example)
    for chat in read_chats(source, faults):
        try:
            found = tokenizer.encode(chat, met)
        except DataError as error:
            faults.add(chat.place, error)
            continue
        told.chats += 1
        for key in chat.other_keys:
            if not tokenizer.template.reads(key):
                met.add(UNREAD + key, chat.place)
        yield from ((chat.place, one) for one in found)
    faults.check()


def _cut(place: str, encoded: Encoded, length: int, told: _Tally) -> Encoded:
    told.cut += 1
    told.first_cut = told.first_cut or f"{place}, {encoded.ids.size} tokens"
    kept = dataclasses.replace(
        encoded, ids=encoded.ids[:length], is_target=encoded.is_target[:length]
    )
    told.lost += encoded.ids.size - length
    told.lost_targets += int(encoded.is_target.sum() - kept.is_target.sum())
    if not kept.is_target.any():
        told.left_out += 1
    return kept
