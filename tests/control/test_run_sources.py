"""Files are known by size, beginning and samples."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.control.run_sources import changed_files, digests_of, file_digest

LARGE = 1 << 21
"""Bytes; more than are read whole."""


@pytest.mark.parametrize("size", [0, 5, 100_000, LARGE])
@pytest.mark.parametrize("place", ["first", "last", "length"])
def test_a_changed_file_is_another(tmp_path: Path, size: int, place: str) -> None:
    file = tmp_path / "a"
    data = bytearray(range(256)) * (size // 256 + 1)
    data = data[:size]
    file.write_bytes(data)
    before = digests_of([file, tmp_path / "absent"])
    assert list(before) == [str(file)] and changed_files(before) == []
    if place == "length" or not data:
        data += b"x"
    else:
        data[0 if place == "first" else -1] ^= 1
    file.write_bytes(data)
    assert changed_files(before) == [str(file)]


def test_a_file_that_is_gone_has_changed(tmp_path: Path) -> None:
    assert file_digest(tmp_path / "a") is None
    assert changed_files({str(tmp_path / "a"): "d"}) == [str(tmp_path / "a")]
