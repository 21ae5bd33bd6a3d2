"""Lines of JSON that a benchmark keeps from one call to the next. Those that another software has written do not count:
what was measured of it proves nothing of this one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dougong.records.jsonl import JsonLines
from dougong.tools.drill.lines import digest_of_software


class KeptLines:
    """One such file; `others`: how many of its lines are of another software."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.others = 0
        self._file, self._code = JsonLines(path), digest_of_software()

    def read(self) -> list[dict[str, Any]]:
        """Those of this software. RecordError for a line that is none."""
        lines = self._file.read()
        own = [line for line in lines if line.pop("code", None) == self._code]
        self.others = len(lines) - len(own)
        return own

    def add(self, line: Mapping[str, Any]) -> None:
        """StorageError where it cannot be written whole."""
        self._file.append({**line, "code": self._code})

    def tell_others(self) -> None:
        """After `read`."""
        if self.others:
            print(f"{self.path}: {self.others} lines are of another software than {self._code}, and do not count")
