"""What a worker says of its numbers in its report."""

from __future__ import annotations

import pytest
from dougong.training.results.integrity_word import NOTHING_CHANGED, IntegrityWord, all_is_well

WORDS = [NOTHING_CHANGED, IntegrityWord(True, None, 5), IntegrityWord(False, 2**64 - 1, 2**64 - 1)]


@pytest.mark.parametrize("word", WORDS)
def test_it_travels_as_it_is(word: IntegrityWord) -> None:
    assert IntegrityWord.of(*word.numbers()) == word


def test_words_fit_together_or_do_not() -> None:
    well = [IntegrityWord(False, 7, 3), IntegrityWord(False, 7, 2**64 - 3), IntegrityWord(False, None, 0)]
    assert all_is_well(well)
    assert not all_is_well([*well, IntegrityWord(True)])
    assert not all_is_well([*well, IntegrityWord(False, 8)])
    assert not all_is_well([*well, IntegrityWord(False, 7, 1)])
