"""The windows of one source: their ids, what is learnt of them, and whether there are enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dougong.data.document_starts import DocumentStarts
from dougong.data.samples.order import WindowOrder
from dougong.data.source_windows import LearntForm, SourceWindows, find_shortage, num_train_windows, reread_remarks
from dougong.data.token_files import TokenFile
from tests.jobs import make_job


def source(places: list[int] | None = None) -> SourceWindows:
    marks = None if places is None else DocumentStarts(TokenFile(Path("starts"), np.array(places)), 4)
    return SourceWindows("data", "a", TokenFile(Path("a"), np.arange(20)), None, 4, WindowOrder(5, 0, 1), marks)


def test_windows_come_in_the_order_in_which_they_are_asked_for() -> None:
    batch = source().read(np.array([3, 0]), LearntForm(False, False))
    assert batch.ids.tolist() == [[12, 13, 14, 15], [0, 1, 2, 3]]
    assert batch.labels is None and batch.positions is None and batch.num_targets is None


def test_what_is_learnt_is_counted_with_and_without_documents() -> None:
    assert source().num_targets(np.arange(5)) == 15
    assert source([0, 5, 6]).num_targets(np.arange(5)) == 13


def test_a_source_without_marks_has_labels_and_positions_where_others_of_its_batch_have_them() -> None:
    plain = source().read(np.array([1]), LearntForm(True, True))
    assert plain.labels is not None and plain.positions is not None
    assert plain.labels.tolist() == plain.ids.tolist() and plain.positions.tolist() == [[0, 1, 2, 3]]
    marked = source([0, 5, 6]).read(np.array([1]), LearntForm(True, True))
    assert marked.positions is not None and marked.positions.tolist() == [[0, 0, 0, 1]]


def test_other_documents_are_another_digest() -> None:
    assert len({source().digest(), source([0]).digest(), source([0, 5]).digest()}) == 3


def test_too_few_and_too_often() -> None:
    job = make_job(data={"text": "a", "sequence_length": 8, "validation": {"fraction": 0.5}})
    assert num_train_windows(job, 81) == 5
    assert "must be left to train on" in str(find_shortage(job, "a", 8))
    assert reread_remarks(job, "a", 81).warnings and not reread_remarks(job, "a", 8000).warnings
