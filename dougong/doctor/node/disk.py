"""How quickly a folder takes and gives bytes."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

from dougong.doctor.facts import StoreAnswer

NUM_BYTES = 32 << 20
_BLOCK = 1 << 20
_TRIES = 2
PREFIX = ".dougong-doctor-"


def measure_storage(folder: str, num_bytes: int = NUM_BYTES) -> StoreAnswer:
    """Write a file there, flush it to the storage, read it again as far as possible from there; the
    better of two tries. The file is deleted whatever happens."""
    file = Path(folder) / f"{PREFIX}{secrets.token_hex(8)}"
    block = os.urandom(_BLOCK)  # what compresses would be written quicker than weights
    best = StoreAnswer()
    try:
        for _ in range(_TRIES):
            write_s, read_s = _write(file, block, num_bytes), _read(file)
            write = max(best.write_bytes_per_s, num_bytes / write_s)
            best = StoreAnswer(write, max(best.read_bytes_per_s, num_bytes / read_s))
    except OSError as error:
        return StoreAnswer(problem=f"{folder}: {error.strerror}", number=error.errno)
    finally:
        with contextlib.suppress(OSError):  # read-only storage refuses that of no file, too
            file.unlink(missing_ok=True)
    return best


def _write(file: Path, block: bytes, num_bytes: int) -> float:
    """Seconds."""
    begun = time.perf_counter()
    with file.open("wb") as out:
        for _ in range(num_bytes // len(block)):
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return time.perf_counter() - begun


def _read(file: Path) -> float:
    """Seconds."""
    with file.open("rb", buffering=0) as source:
        if hasattr(os, "posix_fadvise"):  # without what this machine keeps of it in memory
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begun = time.perf_counter()
        while source.read(_BLOCK):
            pass
        return time.perf_counter() - begun
