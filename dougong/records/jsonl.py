"""Files of JSON objects, one a line: how they are appended to, repaired and read.

JSON has no word for numbers that are not finite; they stand as "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dougong.errors import RecordError, StorageError
from dougong.records.files import ROOM, write_all

PlacedLine = tuple[str, bytes]
"""Where a line lies, such as `metrics.jsonl:7`, and what it is."""

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class JsonLines:
    """One such file. It has one writing process, whose threads may all append; anybody may read.

    A line is appended by one `write`, so a reader never meets a mixture of two. A writer that is
    killed may leave half a line at the end: readers leave it out, and the next writer cuts it off
    before its first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._ends_a_line = False  # known only after this object has looked or written

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line. StorageError when it cannot be written whole."""
        line = (dumps(record) + "\n").encode()
        with self._lock:
            try:
                if not self._ends_a_line:
                    _cut_torn_line(self.path)
                # Until the write has come back, half a line may stand there.
                self._ends_a_line = False
                _append(self.path, line)
                self._ends_a_line = True
            except OSError as error:
                raise StorageError(
                    f"{self.path}: cannot append: {error.strerror}; {ROOM}"
                ) from error

    def read(self) -> list[dict[str, Any]]:
        """All whole lines, in the order written; none when there is no file.

        RecordError names a line that holds no JSON object, and a file that cannot be read.
        """
        # What stands after the last newline is still being written, or was torn.
        *whole, _ = self._bytes().split(b"\n")
        return [parse_line(f"{self.path}:{number}", line) for number, line in enumerate(whole, 1)]

    def last_lines(self, most_bytes: int) -> Iterator[PlacedLine]:
        """As `lines`, of the last bytes of a file that may be long."""
        *whole, _ = self._bytes(most_bytes).split(b"\n")
        for line in whole:
            yield f"{self.path}: a line near its end", line

    def _bytes(self, most_bytes: int | None = None) -> bytes:
        """The file; of its end only whole lines."""
        try:
            with self.path.open("rb") as file:
                first = 0 if most_bytes is None else max(file.seek(0, os.SEEK_END) - most_bytes, 0)
                file.seek(first)
                data = file.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise RecordError(
                f"{self.path}: cannot be read: {error.strerror}; restore it from a copy"
            ) from error
        return data[data.find(b"\n") + 1 :] if first else data

    def lines(self) -> Iterator[PlacedLine]:
        """All whole lines as they stand, for a file of any length; RecordError where it cannot be
        read."""
        try:
            with self.path.open("rb") as file:
                whole = (line for line in file if line.endswith(b"\n"))
                for number, line in enumerate(whole, 1):
                    yield f"{self.path}:{number}", line
        except FileNotFoundError:
            return
        except OSError as error:
            raise RecordError(
                f"{self.path}: cannot be read: {error.strerror}; restore it from a copy"
            ) from error


class Succession:
    """Whose lines count, where they bear the number of their writer (`fence`): a writer that has
    been followed by another, and has not noticed yet, may still append some."""

    def __init__(self) -> None:
        self._newest = 0

    def counts(self, record: Mapping[str, Any]) -> bool:
        """Whether nobody of a higher number has written an earlier line. To be asked for each line,
        in the order written."""
        fence = record.get("fence", 0)
        if type(fence) is not int:
            return True  # whoever reads the line says what is wrong with it
        self._newest = max(self._newest, fence)
        return fence in (0, self._newest)  # 0: of no controller, such as a line by hand


def parse_line(place: str, line: bytes) -> dict[str, Any]:
    """The JSON object of a line. RecordError for what is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{place}: not JSON ({error}); restore the line or delete it") from error
    if not isinstance(record, dict):
        found = type(record).__name__
        raise RecordError(f"{place}: holds a {found}, not an object; restore or delete it")
    return record


def dumps(value: Any) -> str:
    """JSON on one line. Numbers that are not finite become words, paths become text."""
    return json.dumps(encode(value), ensure_ascii=False, allow_nan=False)


def decode_numbers(value: Any) -> Any:
    """The numbers again that `dumps` wrote as words, in the values of objects at any depth."""
    if isinstance(value, dict):
        return {key: decode_numbers(item) for key, item in value.items()}
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    return value


def encode(value: Any) -> Any:
    """What JSON can hold, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else _word_of(value)
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _word_of(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _append(path: Path, line: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        write_all(fd, line)
    finally:
        os.close(fd)


def _cut_torn_line(path: Path) -> None:
    """Drop what stands after the last newline, so that the next line begins a line."""
    try:
        with path.open("r+b") as file:
            data = file.read()
            if not data.endswith(b"\n"):
                file.truncate(data.rfind(b"\n") + 1)
    except FileNotFoundError:
        return
