"""A disk of a lab that several hosts see at one place, and that can be full or answer nobody."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

from dougong.deadlines import DEADLINES
from dougong.testing.host import Host
from dougong.testing.process import LabError

_BALLAST = "ballast"
_MEGA, _PAGE = 1 << 20, 1 << 12


class Disk:
    """An ext4 of its own, mounted at `path` of each of these hosts; `outside`: where this machine's
    own programs see it, as long as the first of the hosts is there. It ends with them.

    While it is frozen, whoever writes to it waits in the kernel, beyond any signal.
    """

    def __init__(self, hosts: Sequence[Host], path: Path, megabytes: int) -> None:
        """LabError when a tool is missing, or this machine offers no loop device."""
        self.path = path
        self._host = hosts[0]
        image = self._host.folder / f"{path.name}.ext4"
        with image.open("wb") as file:
            file.truncate(megabytes * _MEGA)
        _tool(["mkfs.ext4", "-q", "-F", str(image)])
        device = _tool(["losetup", "--find", "--show", str(image)]).strip()
        try:
            path.mkdir(parents=True, exist_ok=True)
            for host in hosts:
                host.place.mounts(["mount", device, str(path)])
        finally:
            # The kernel lets the device go when the last mount does.
            _tool(["losetup", "--detach", device])

    @property
    def outside(self) -> Path:
        """Its top, by a path of this machine."""
        return Path(f"/proc/{self._host.place.pid}/root{self.path}")

    def fill(self) -> None:
        """Leave no room on it."""
        with (self.outside / _BALLAST).open("wb", buffering=0) as file:
            for num_bytes in (_MEGA, _PAGE):
                _write_until_full(file, num_bytes)

    def empty(self) -> None:
        """Give the room back."""
        (self.outside / _BALLAST).unlink(missing_ok=True)

    def freeze(self, for_s: float) -> None:
        """It answers nobody for so long: the file system's own freeze, undone by a process outside
        the lab, since a lab that ended meanwhile could not end what waits."""
        # From within: a lab that ends takes the path away, and a file system that nobody could thaw
        # would stay for ever.
        script = f'cd "$0" && fsfreeze -f . && sleep {for_s}; fsfreeze -u .'
        words = ["nsenter", "--target", str(self._host.place.pid), "--mount", "sh", "-c", script]
        words.append(str(self.path))
        nothing = subprocess.DEVNULL
        subprocess.Popen(
            words, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
        )


def _write_until_full(file: FileIO, num_bytes: int) -> None:
    with contextlib.suppress(OSError):
        while file.write(bytes(num_bytes)):
            os.fsync(file.fileno())


def tear_newest(checkpoints: Path) -> Path:
    """Cut the end off the largest file of the newest checkpoint, as a disk that loses a write;
    which file. LabError where there is none."""
    file = _largest(checkpoints)
    os.truncate(file, file.stat().st_size // 2)
    return file


def flip_in_newest(checkpoints: Path) -> Path:
    """Another bit in the middle of that file."""
    file = _largest(checkpoints)
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        (byte,) = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    return file


def _largest(checkpoints: Path) -> Path:
    newest = max(checkpoints.glob("step-*"), default=None)
    files = [path for path in newest.rglob("*") if path.is_file()] if newest is not None else []
    if not files:
        raise LabError(f"{checkpoints}: holds no checkpoint yet")
    return max(files, key=lambda path: path.stat().st_size)


def _tool(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=DEADLINES.lab_host_s, check=False
        )
    except FileNotFoundError as error:
        raise LabError(f"a disk of a lab needs `{words[0]}`: {error}") from error
    if done.returncode != 0:
        raise LabError(f"`{' '.join(words)}`: {' '.join(done.stderr.split())}")
    return done.stdout
