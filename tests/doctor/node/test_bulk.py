"""Links between two ends on this machine: figures, strangers, and an end that is silent."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from dougong.deadlines import DEADLINES
from dougong.doctor.facts import LinkAnswer, LinkQuestion
from dougong.doctor.node.bulk import BulkListener, measure_link

QUICK = replace(DEADLINES, link_s=1.0)
HOST = "127.0.0.1"


def asked(port: int, token: str = "secret") -> LinkAnswer:
    return measure_link(LinkQuestion(HOST, port, token, QUICK))


def test_both_directions_have_a_figure_one_prober_after_the_other() -> None:
    listener = BulkListener(HOST, "secret", None, replace(DEADLINES, link_s=20.0))
    try:
        for _ in range(2):
            found = measure_link(LinkQuestion(HOST, listener.port, "secret", replace(DEADLINES, link_s=20.0)))
            assert not found.problem
            assert 0 < found.latency_s < 1 and found.out_bytes_per_s > 1e6 and found.in_bytes_per_s > 1e6
    finally:
        listener.close()


def test_a_stranger_is_told_so() -> None:
    listener = BulkListener(HOST, "another", None, QUICK)
    try:
        assert asked(listener.port).problem
    finally:
        listener.close()
    assert "refused" in asked(listener.port).problem


def test_an_end_that_says_nothing_costs_its_limit_and_no_more() -> None:
    with socket.create_server((HOST, 0)) as silent:
        found = asked(silent.getsockname()[1])
    assert found.problem == "too little came through within 1 s"


@pytest.mark.parametrize("limit_s", [0.001])
def test_a_link_that_is_too_slow_has_no_figure(limit_s: float) -> None:
    listener = BulkListener(HOST, "secret", None, QUICK)
    try:
        found = measure_link(LinkQuestion(HOST, listener.port, "secret", replace(DEADLINES, link_s=limit_s)))
        assert found.problem and found.out_bytes_per_s == 0
    finally:
        listener.close()
