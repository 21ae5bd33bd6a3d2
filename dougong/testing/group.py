"""A control group of this machine's own: what lives in it is held to a limit, and nobody else."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from dougong.testing.process import LabError

_ROOT = Path("/sys/fs/cgroup")
_Self = TypeVar("_Self", bound="ControlGroup")


class ControlGroup:
    """A group under one of the machine's controllers, of version 1 or 2. A context: its end lets
    its processes go back and removes it."""

    def __init__(self, controller: str, files: tuple[str, str]) -> None:
        """`files`: in which its limit stands, of versions 1 and 2. LabError where this machine
        gives none."""
        is_one = (_ROOT / controller).is_dir()
        self._parent = _ROOT / controller if is_one else _ROOT
        self.limit_file = files[0] if is_one else files[1]
        self.path = self._parent / f"dougong-lab-{secrets.token_hex(4)}"
        try:
            self.path.mkdir()
        except OSError as error:
            raise LabError(f"no control group of {controller} can be made: {error}") from error
        if not (self.path / self.limit_file).exists():
            self.path.rmdir()
            raise LabError(f"{self._parent}: the controller of {controller} is not on")

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def adopt(self, pids: Iterable[int]) -> None:
        """These processes, and what they start from now on, live in it."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (self.path / "cgroup.procs").write_text(str(pid))

    def close(self) -> None:
        """Nobody lives in it any more, and it is gone."""
        for pid in (self.path / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (self._parent / "cgroup.procs").write_text(pid)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)
