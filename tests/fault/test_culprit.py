"""How a culprit is named."""

from __future__ import annotations

import pytest
from dougong.fault.culprit import Culprit


@pytest.mark.parametrize(
    ("culprit", "words", "worker"),
    [
        (Culprit("worker", "west/0"), "west/0", "west/0"),
        (Culprit("worker", "west/0", "node1"), "west/0 on node1", "west/0"),
        (Culprit("agent", "west", "node1"), "agent west on node1", ""),
        (Culprit("fork_server", "west"), "fork server of agent west", ""),
        (Culprit("node", "node1"), "node node1", ""),
        (Culprit("link", "node1 - node2"), "link node1 - node2", ""),
        (Culprit("head", ""), "head", ""),
    ],
)
def test_each_kind_says_what_it_is_and_where(culprit: Culprit, words: str, worker: str) -> None:
    assert (str(culprit), culprit.worker) == (words, worker)
