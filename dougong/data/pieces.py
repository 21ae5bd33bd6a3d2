"""Where a long text is cut for its tokenizer, so that the tokens are those of the whole. Imports no
torch.

A tokenizer takes over a hundred bytes of memory a character while it works, so a long document is
handed to it in pieces. Some of them put a mark in front of whatever they get, some take a space
together with the word behind it, or a run of newlines as one token. So a place is taken only after
it was tried: the text around it, tokenised whole, must give the tokens of its two sides. Where a
piece by itself would get a mark in front, it is given some of the text before it, whose tokens are
dropped again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

PIECE_CHARACTERS = 1 << 16
"""A piece is cut as soon as it is about as long as this."""
_MOST_PIECES = 16  # In one, where no place holds; then it is cut anywhere.
_AROUND = 256  # Characters on each side of a place with which it is tried.
_LEAD = 16  # Characters before the cut that a piece may need in front.
_TRIES = 16

# Likely places, the best first. Never behind white space: its runs are tokens of their own.
_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])")
_OTHER_KIND = re.compile(r"(?<=\w)(?=\W)|(?<=[^\w\s])(?=\w)")

Encode = Callable[[str], list[int]]
"""The ids of a text, with no special token around them."""


@dataclass(frozen=True)
class TextPiece:
    """A part of a document for the tokenizer. Its first `num_dropped` tokens are those of text
    before the cut."""

    text: str
    num_dropped: int


@dataclass(frozen=True)
class _Border:
    """A place in a text, what the piece behind it needs in front, and how many tokens that is."""

    place: int
    lead: str = ""
    num_dropped: int = 0


def pieces_of(texts: Iterable[str], encode: Encode, size: int) -> Iterator[TextPiece]:
    """The pieces of one document, which comes as consecutive `texts`; each has about `size`
    characters."""
    kept, reach, last = "", size, _Border(0)
    for text in texts:
        kept += text
        while len(kept) >= reach + _AROUND:
            cut = _find_cut(kept, reach - size // 2, reach, encode)
            if cut is None and reach < _MOST_PIECES * size:
                reach += size // 2
                continue
            # Without a place that holds, nothing is put in front: no character may be lost.
            cut = cut or _Border(reach)
            yield TextPiece(last.lead + kept[: cut.place], last.num_dropped)
            kept, reach, last = kept[cut.place :], size, cut
    if kept:
        yield TextPiece(last.lead + kept, last.num_dropped)


def _find_cut(text: str, low: int, high: int, encode: Encode) -> _Border | None:
    for place in _places(text, low, high):
        cut = _try(text, place, encode)
        if cut is not None:
            return cut
    return None


def _places(text: str, low: int, high: int) -> Iterator[int]:
    """Places in `low .. high` that are worth a try."""
    for pattern in (_BETWEEN_WORDS, _OTHER_KIND):
        found = [match.start() for match in pattern.finditer(text, low, high)]
        yield from reversed(found[-_TRIES:])
    for place in range(high, high - _TRIES, -1):
        if not text[place - 1].isspace():
            yield place


def _try(text: str, place: int, encode: Encode) -> _Border | None:
    """The cut at a place, if the tokens around it do not depend on it."""
    left, right = text[max(0, place - _AROUND) : place], text[place : place + _AROUND]
    whole, before = encode(left + right), encode(left)
    if whole[: len(before)] != before:
        return None
    behind = whole[len(before) :]
    if encode(right) == behind:
        return _Border(place)
    lead = left[-_LEAD:]
    dropped = encode(lead)
    if encode(lead + right) == dropped + behind:
        return _Border(place, lead, len(dropped))
    return None
