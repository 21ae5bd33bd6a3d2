"""The folder of a run's own Ray, apart from that of any other Ray on this machine."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from dougong.launcher.backends.ray_processes import OWN_FOLDER

_LONGEST_BYTES = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Of a path in which Ray can have its sockets (unix(7)): their own part is as long as this."""
_CHANCE = "12345678"


def make_folder() -> Path:
    """A new one where temporary files go, in /tmp where that is too long for sockets."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix=OWN_FOLDER, dir=usual if fits(usual) else "/tmp"))


def fits(folder: str) -> bool:
    """Whether Ray's sockets can lie in a folder of ours there."""
    return len(f"{folder}/{OWN_FOLDER}{_CHANCE}".encode()) <= _LONGEST_BYTES


def remove_folder(folder: Path) -> None:
    """Ray has ended. What cannot be removed stays: it is nobody's loss."""
    shutil.rmtree(folder, ignore_errors=True)
