"""What the tests of the tools share."""

from __future__ import annotations

import multiprocessing.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A test's own place for temporary files: what it finds there, no test beside it has put."""
    multiprocessing.util.get_temp_dir()  # chosen once in a process, and still needed by tests after this one
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
