"""The tokens of a document in pieces are those of the whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tokenizers
from dougong.data.pieces import pieces_of
from tests.data.made_tokenizers import byte_level, llama, unigram

SIZE = 600
ENGLISH = "the brackets join unlike timbers and let a hall ride out an earthquake; "
LONG = {
    "lines": (ENGLISH + "\n") * 60,
    "one line": ENGLISH * 60,
    "code": "def bracket(timber):\n    if timber:\n        return [1,  2]\n\n\n" * 60,
    "no spaces": "斗拱是中国古代建筑中的结构，位于柱与梁之间。" * 120,
    "minified": '{"timber":["bracket",12345],"nail":null},' * 90,
    "a run of newlines": ENGLISH + "\n" * 2003 + ENGLISH * 5,
    "a run of spaces": ENGLISH + " " * 2003 + ENGLISH * 5,
    "special tokens": "timbers<s>nails</s>" * 200,
    "unknown letters": "ЖЖЖ жжж " * 300,
}


def ids_in_pieces(made: tokenizers.Tokenizer, text: str, block: int) -> tuple[list[int], int]:
    """The ids, and in how many pieces they came."""

    def encode(part: str) -> list[int]:
        return made.encode(part, add_special_tokens=False).ids

    blocks = (text[start : start + block] for start in range(0, len(text), block))
    ids, count = [], 0
    for piece in pieces_of(blocks, encode, SIZE):
        ids += encode(piece.text)[piece.num_dropped :]
        count += 1
    return ids, count


@pytest.mark.parametrize("make", [byte_level, unigram, llama])
def test_tokens_are_those_of_the_whole(make: Callable[[], tokenizers.Tokenizer]) -> None:
    made = make()
    for name, text in LONG.items():
        whole = made.encode(text, add_special_tokens=False).ids
        ids, count = ids_in_pieces(made, text, 1000)
        assert ids == whole, name
        assert count > 1, name


def test_blocks_may_be_cut_anywhere() -> None:
    made = byte_level()
    for block in (1, 7, 5000):
        assert ids_in_pieces(made, LONG["code"][:2500], block)[0] == made.encode(LONG["code"][:2500]).ids


def test_text_without_a_place_to_cut_is_cut_all_the_same() -> None:
    blank = " " * (40 * SIZE)
    pieces = list(pieces_of([blank], lambda text: [len(text)], SIZE))
    assert "".join(piece.text for piece in pieces) == blank
    assert len(pieces) > 1 and max(len(piece.text) for piece in pieces) <= 17 * SIZE
