"""How quickly a folder takes bytes; nothing is left in it."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from dougong.doctor.node.disk import measure_storage
from tests.storage import REFUSED, read_only


def test_both_directions_have_a_figure_and_nothing_is_left(tmp_path: Path) -> None:
    found = measure_storage(str(tmp_path), 2 << 20)
    assert found.write_bytes_per_s > 0 and found.read_bytes_per_s > 0 and not found.problem
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    found = measure_storage(str(tmp_path / "none"))
    assert "none: No such file or directory" in found.problem and found.number == errno.ENOENT


def test_storage_that_takes_nothing_is_told_and_no_error_of_ours(tmp_path: Path) -> None:
    found = measure_storage("/proc", 1 << 20)
    assert found.problem.startswith("/proc: ") and found.number
    with read_only(tmp_path):
        found = measure_storage(str(tmp_path), 1 << 20)
    assert re.fullmatch(f"{tmp_path}: {REFUSED}", found.problem) and found.number in (errno.EROFS, errno.EACCES)
