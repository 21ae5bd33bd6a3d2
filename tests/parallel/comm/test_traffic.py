"""What a worker takes down of what it sends."""

from __future__ import annotations

from dougong.parallel.comm.traffic import SentTraffic, TrafficKind, ring_share, ring_target


def test_bytes_and_messages_by_kind_and_peer() -> None:
    sent = SentTraffic(0, 3)
    sent.add(TrafficKind.ROWS, 1, 100)
    sent.add(TrafficKind.ROWS, 1, 20)
    sent.add(TrafficKind.SUMS, 2, 7)
    sent.add(TrafficKind.SUMS, 0, 0)  # what is empty does not travel
    assert sent.num_bytes[TrafficKind.ROWS.number].tolist() == [0, 120, 0]
    assert sent.num_messages.sum() == 3
    assert (sent.total(TrafficKind.ROWS), sent.total(TrafficKind.SUMS), sent.total()) == (120, 7, 127)


def test_one_message_to_each_that_gets_rows() -> None:
    sent = SentTraffic(1, 4)
    sent.add_to_each(TrafficKind.ROWS, (0, 1, 3), (2, 9, 0), 10)
    assert sent.num_bytes[TrafficKind.ROWS.number].tolist() == [20, 0, 0, 0], "none to oneself, none that is empty"
    assert sent.num_messages.sum() == 1


def test_a_ring_sends_to_the_next_one() -> None:
    sent = SentTraffic(3, 4)
    sent.add_ring(TrafficKind.COUNTS, (0, 2, 3), 3, 90)
    assert sent.num_bytes[TrafficKind.COUNTS.number].tolist() == [120, 0, 0, 0]
    assert ring_target((0, 2, 3), 0) == 2
    assert ring_share(2, 90) == 90  # half of it, twice


def test_a_worker_alone_has_no_ring() -> None:
    sent = SentTraffic(0, 1)
    sent.add_ring(TrafficKind.COUNTS, (0,), 0, 90)
    assert sent.total() == 0
