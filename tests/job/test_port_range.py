"""Ranges of ports, as a person writes them."""

from __future__ import annotations

import pytest
from dougong.job.port_range import Ports


@pytest.mark.parametrize(("text", "first", "last"), [("20000-20100", 20000, 20100), (" 1024-65535\n", 1024, 65535)])
def test_a_range_is_read_and_shown(text: str, first: int, last: int) -> None:
    ports = Ports.read(text)
    assert (ports.first, ports.last) == (first, last)
    assert str(ports) == text.strip()
    assert len(ports) == last - first + 1
    assert first in ports and last in ports and first - 1 not in ports and last + 1 not in ports


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("20000", "must be FIRST-LAST, such as 20000-20100"),
        ("20000:20100", "must be FIRST-LAST"),
        ("-5-20100", "must be FIRST-LAST"),
        ("200000-200100", "must be FIRST-LAST"),
        ("20100-20000", "must begin with the lower port: 20000-20100"),
        ("0-20000", "must lie between 1024 and 65535"),
        ("65000-70000", "must lie between 1024 and 65535"),
    ],
)
def test_what_is_no_range_is_refused_with_the_rule(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Ports.read(text)


@pytest.mark.parametrize("place", [0, 2, 7, 12345])
def test_a_ring_holds_every_port_once_wherever_it_begins(place: int) -> None:
    ring = list(Ports(3000, 3004).beginning_at(place))
    assert ring[0] == 3000 + place % 5
    assert sorted(ring) == [3000, 3001, 3002, 3003, 3004]
