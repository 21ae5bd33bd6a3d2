"""Trouble with storage, as values."""

from __future__ import annotations

import pickle

from dougong.storage.trouble import Healed, Trouble


def test_what_was_kept_and_lost_travels_with_it() -> None:
    trouble = Trouble("records", "No space left on device", 2.0, kept=(("events", 3),), dropped=(("rows", 1),))
    assert pickle.loads(pickle.dumps(trouble)) == trouble
    assert Healed("records", 1.5).dropped == ()
