"""Addresses and ranges of ports are shown as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.addresses import Ports, num_needed, read_address, read_ports, show_address
from dougong.job.load import load_job
from tests.job.refusing import refusals
from tests.launcher.jobs import write


@pytest.mark.parametrize(
    ("host", "shown"), [("10.0.0.1", "10.0.0.1:6379"), ("node0", "node0:6379"), ("fd00::1", "[fd00::1]:6379")]
)
def test_what_is_shown_is_read_again(host: str, shown: str) -> None:
    assert show_address(host, 6379) == shown
    assert read_address(shown) == (host, 6379)


def test_an_address_without_brackets_is_read_as_ray_prints_it() -> None:
    assert read_address("fd00::4:6379") == ("fd00::4", 6379)
    assert read_address("fe80::1%eth0:6379") == ("fe80::1%eth0", 6379)


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1", "auto", "10.0.0.1:", ":6379", "10.0.0.1:0", "10.0.0.1:70000", "10.0.0.1:ray", "[fd00::1]", "[]:6379",
     "[fd00::1:6379", "ray://10.0.0.1:10001", ""],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no HOST:PORT"):
        read_address(text)


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


def test_a_job_file_says_ports_as_text(tmp_path: Path) -> None:
    """`20000-20100` is no difference of two numbers to YAML."""
    assert read_ports(load_job(write(tmp_path, ports="20000-20100"), []).job.ports) == Ports(20000, 20100)
    assert read_ports(load_job(write(tmp_path), []).job.ports) is None
    (line,) = refusals(write(tmp_path, ports="20100-20000"))
    assert line.startswith(
        "ports: must begin with the lower port: 20000-20100 (got '20100-20000'): a range to listen on"
    )
    (line,) = refusals(write(tmp_path, ports="20000"))
    assert line.startswith("ports: must be text (got 20000): a range to listen on, such as 20000-20100")


def test_every_port_of_a_node_is_counted() -> None:
    assert num_needed(workers=2, agents=1) == 11
    assert num_needed(workers=0, agents=0, with_controller=True) == 2
