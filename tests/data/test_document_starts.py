"""Where documents begin, by an id or from a list, and what that makes of a window."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from dougong.data.document_starts import BoundaryId, DocumentStarts, find_starts
from dougong.data.samples.marks import IGNORED
from dougong.data.token_files import TokenFile, open_tokens
from dougong.errors import DataError

LENGTH = 6


def file_of(folder: Path, ids: list[int]) -> TokenFile:
    np.array(ids, dtype=np.uint16).tofile(folder / "ids.bin")
    return open_tokens(folder / "ids.bin", None)


def marks_of(places: list[int]) -> DocumentStarts:
    return DocumentStarts(TokenFile(Path("starts"), np.array(places)), LENGTH)


def slow(places: list[int], window: int) -> tuple[list[bool], list[int]]:
    """Of each token of a window: whether it is learnt, and its position; by the definition."""
    learnt, positions, position = [], [], 0
    for place in range(window * LENGTH, (window + 1) * LENGTH):
        is_first = place in places or place == window * LENGTH
        position = 0 if is_first else position + 1
        learnt.append(not is_first)
        positions.append(position)
    return learnt, positions


@pytest.mark.parametrize("seed", range(6))
def test_labels_positions_and_counts_are_those_of_the_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    places = sorted({0, *random.choice(60, size=int(random.integers(1, 40)), replace=False).tolist()})
    marks, windows = marks_of(places), random.permutation(10)
    ids = np.stack([np.arange(window * LENGTH, (window + 1) * LENGTH) for window in windows])
    labels, positions = marks.labels_and_positions(ids, windows)
    for row, window in enumerate(windows.tolist()):
        learnt, expected = slow(places, window)
        assert positions[row].tolist() == expected
        assert labels[row].tolist() == [i if yes else IGNORED for i, yes in zip(ids[row], learnt, strict=True)]
    assert marks.targets(windows).tolist() == (labels != IGNORED).sum(1).tolist()
    assert marks.num_targets(windows) == int((labels != IGNORED).sum())


def test_a_window_of_documents_of_one_token_has_no_target() -> None:
    assert marks_of(list(range(12))).num_targets(np.array([0, 1])) == 0


@pytest.mark.parametrize(("is_first", "places"), [(True, [0, 2, 5, 6]), (False, [0, 3, 6, 7])])
def test_an_id_begins_or_ends_documents(is_first: bool, places: list[int], tmp_path: Path) -> None:
    tokens = file_of(tmp_path, [1, 2, 9, 3, 4, 9, 9, 5])
    found = find_starts(tokens, BoundaryId(9, is_first), tmp_path / "cache")
    assert found.ids.tolist() == places


def test_places_are_the_same_wherever_a_long_file_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = file_of(tmp_path, [1, 9, 2, 9, 9, 3, 9])
    whole = find_starts(tokens, BoundaryId(9, False), tmp_path / "one").ids.tolist()
    monkeypatch.setattr("dougong.data.document_starts._CHUNK_TOKENS", 2)
    assert find_starts(tokens, BoundaryId(9, False), tmp_path / "two").ids.tolist() == whole == [0, 2, 4, 5]


def test_places_are_looked_for_once_and_anew_in_another_file_or_by_another_id(tmp_path: Path) -> None:
    tokens, cache = file_of(tmp_path, [1, 9, 2, 8]), tmp_path / "cache"
    first = find_starts(tokens, BoundaryId(9, False), cache)
    assert find_starts(tokens, BoundaryId(9, False), cache).path == first.path
    others = {
        find_starts(tokens, BoundaryId(8, False), cache).path,
        find_starts(tokens, BoundaryId(9, True), cache).path,
    }
    os.utime(tokens.path, ns=(1, 1))
    others.add(find_starts(tokens, BoundaryId(9, False), cache).path)
    assert len(others | {first.path}) == 4


def test_an_id_that_nowhere_occurs_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    tokens = file_of(tmp_path, [1, 2, 3, 4])
    with pytest.raises(
        DataError, match=r"data.document_end: no token of .*ids.bin is 7, so nothing tells its documents"
    ):
        find_starts(tokens, BoundaryId(7, False), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
