"""Addresses are shown as they are typed."""

from __future__ import annotations

import pytest
from dougong.addresses import read_address, show_address


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
