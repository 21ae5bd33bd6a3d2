"""Namespaces of Linux without names: each lives as long as a process in it, and is found by one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dougong.deadlines import DEADLINES
from dougong.testing.process import LabError

# The first process of a process namespace is given those whose parents have ended, and must
# collect them in their turn; one that ignores SIGCHLD leaves that to the kernel. (What a shell's
# `trap "" CHLD` sets is not inherited.)
SLEEP_AS_FIRST = "exec env --ignore-signal=CHLD sleep infinity"


@dataclass(frozen=True)
class Place:
    """A network namespace (and, of a host, what else it has), by a process that lives in it as
    this machine counts."""

    pid: int

    def net(self, words: Sequence[str], lines: Iterable[str] = ()) -> str:
        """Run a tool in this network with the machine's own files; what it prints. LabError with
        its own words when it fails."""
        return _tool(["nsenter", "--target", str(self.pid), "--net", *words], lines)

    def mounts(self, words: Sequence[str]) -> str:
        """Run a tool where this place's mounts are seen; its /proc knows only its own processes."""
        inside = ["nsenter", "--target", str(self.pid), "--mount", "--pid"]
        return _tool([*inside, *words], ())

    def ip(self, lines: Iterable[str]) -> None:
        """`ip -batch`."""
        self.net(["ip", "-batch", "-"], lines)

    def rules(self, lines: Iterable[str], version: int) -> None:
        """Lines of `iptables-restore` for IP of this version, beside those that are there."""
        words = [_restore(version), "--noflush", "--wait"]
        self.net(words, ["*filter", *lines, "COMMIT"])


def _restore(version: int) -> str:
    return "iptables-restore" if version == 4 else "ip6tables-restore"


def _tool(words: Sequence[str], lines: Iterable[str]) -> str:
    text = "".join(f"{line}\n" for line in lines)
    limit_s = DEADLINES.lab_host_s
    try:
        done = subprocess.run(
            words, input=text, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except FileNotFoundError as error:
        raise LabError(f"`{words[0]}` is not installed: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{' '.join(words)}`: not ended within {limit_s:g} s") from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise LabError(f"`{' '.join(words)}`: {said}" + (f"; given:\n{text}" if text else ""))
    return done.stdout
