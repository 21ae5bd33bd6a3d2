"""Replacing a small file as one step: a reader sees the old text or the new one, never half."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def replace_file(path: Path, text: str, mode: int = 0o666, durable: bool = False) -> None:
    """Put `text` where `path` is, in one rename.

    The new file has `mode` (less the umask) from its first byte on. `durable`: its bytes are on
    storage before it takes the old one's place. OSError when it cannot be written; the old file
    stands then as it was, and nothing is left beside it.
    """
    # Processes and threads may replace the same file at once: each has a name of its own, in the
    # same folder, because a rename is one step only within a file system.
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        _write_file(new, text.encode(), mode, durable)
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def write_all(fd: int, data: bytes) -> None:
    """Write every byte: one `write` may take only a part of them."""
    while data:
        written = os.write(fd, data)
        data = data[written:]


def _write_file(path: Path, data: bytes, mode: int, durable: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        write_all(fd, data)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
