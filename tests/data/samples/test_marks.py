"""Positions begin anew with each document."""

from __future__ import annotations

import numpy as np
from dougong.data.samples.marks import positions_within


def test_positions_begin_anew_where_a_document_does() -> None:
    begins = np.array([[0, 0, 2, 0, 2, 2], [1, 0, 0, 0, 0, 0]])
    assert positions_within(begins).tolist() == [[0, 1, 0, 1, 0, 0], [0, 1, 2, 3, 4, 5]]
