"""File systems that are read-only or small, for tests of what a run does on them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

REFUSED = "(Read-only file system|Permission denied)"


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be written into the folder: for root, whom no permission stops, by a mount."""
    if os.geteuid() == 0:
        with _mounted(folder, "ro,size=64k"):
            yield
        return
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


@contextlib.contextmanager
def small(folder: Path, size: str) -> Iterator[None]:
    """The folder is a file system of that size, such as `256k`. For root."""
    with _mounted(folder, f"size={size}"):
        yield


def fill(file: Path) -> Path:
    """A file that takes all the room there is."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as out:
        while out.write(bytes(4096)):
            pass
    return file


@contextlib.contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "dougong-test", str(folder)], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=30)
