"""Small facts about Linux processes: dying with the parent, signals' names, who still lives,
out-of-memory kills."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NAME = 15


def die_with_parent(parent: int) -> None:
    """Be killed when `parent` (the thread that forked us) ends, however it ends.

    Linux alone; elsewhere a closed socket is what shows the parent's end. Ends this process at once
    when the parent is gone already.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def name_process(name: str) -> None:
    """What this process is called in lists of processes: 15 letters at most. Linux alone."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def read_nothing() -> None:
    """Nobody is ever asked: what this process and its children would read from a terminal is at its
    end."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def title_process(title: str) -> None:
    """What this process is called by `ps` in place of its command line, as far as that has room,
    and in short by `top`. Children that are forked have the same title. Linux alone."""
    name_process(title)
    try:
        stat = Path("/proc/self/stat").read_text()
    except OSError:
        return
    # proc(5): fields 48 and 49 of all, 46 and 47 after the name; 0 where the system does not tell.
    start, end = map(int, stat.rpartition(")")[2].split()[45:47])
    room = end - start
    if start > 0 and room > 1:
        text = title.encode()[: room - 2]
        # The system takes what stands there for a title where its last byte is not 0.
        ctypes.memmove(start, text + bytes(room - len(text) - 1) + b".", room)


def adopt_orphans() -> bool:
    """From now on this process is the parent of everything that its descendants leave without one.
    False where the system cannot do that: Linux alone can."""
    if not sys.platform.startswith("linux"):
        return False
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return bool(prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def open_pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the process `pid` exits.

    None where the system has none: poll instead.
    """
    opener = getattr(os, "pidfd_open", None)
    if opener is None:
        return None
    try:
        return int(opener(pid))
    except OSError:  # a kernel before 5.3, or a sandbox that forbids it
        return None


def kill_group(pid: int) -> None:
    """SIGKILL the process group that `pid` leads. No error when nobody is left in it."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # gone, or only zombies (macOS says EPERM)
        return


def signal_name(number: int) -> str:
    """`SIGKILL` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def end_words(code: int) -> str:
    """How a process has ended, by its exit status, which is negative for a signal: such as `was
    ended by SIGKILL`, or `ended with status 3`."""
    return f"was ended by {signal_name(-code)}" if code < 0 else f"ended with status {code}"


def process_exists(pid: int) -> bool:
    """Whether a process of that number lives on this machine; a zombie does not.

    The one place that answers this. Systems without /proc are asked by a signal that is never
    delivered, and count zombies.
    """
    if not sys.platform.startswith("linux"):
        return _can_be_signalled(pid)
    return process_state(pid) not in ("", "Z", "X")


def process_state(pid: int) -> str:
    """The letter that /proc has for the process, such as T for one that is stopped; empty where
    there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The name stands in parentheses and may itself hold some: the state comes after the last one.
    return stat.rpartition(")")[2].split()[0]


def process_start(pid: int) -> int | None:
    """When a living process of this machine began, in clock ticks since the boot: with its number
    it names the process for ever. None where there is none, or only a zombie; 0 where the system
    does not tell (it has no /proc)."""
    if not sys.platform.startswith("linux"):
        return 0 if process_exists(pid) else None
    if not process_exists(pid):
        return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])  # proc(5): field 22 of all, 20 after the name


def process_table() -> str:
    """Names the set of processes in which a number means one: this boot of the machine, and this
    container. Empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _can_be_signalled(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but there
        return True
    return True


def interface_of(address: str) -> str | None:
    """The network interface that has this address.

    None when none has: the address is translated on the way.
    """
    for name, addresses in psutil.net_if_addrs().items():
        # An IPv6 address may carry its interface behind a `%`.
        if any(entry.address.partition("%")[0] == address for entry in addresses):
            return str(name)
    return None


def count_oom_kills(
    root: Path = Path("/sys/fs/cgroup"), cgroup: Path = Path("/proc/self/cgroup")
) -> int | None:
    """How many processes of this control group the kernel killed for memory so far.

    None where it cannot be read.
    """
    for file in _memory_files(root, cgroup, ("memory.events", "memory.oom_control")):
        try:
            words = file.read_text().split()
        except OSError:
            continue
        if "oom_kill" in words:
            return int(words[words.index("oom_kill") + 1])
    return None


class OomWatch:
    """Who of this control group the kernel may have killed for memory: of the deaths within some
    seconds of such a kill as many as there were kills. Look often."""

    def __init__(self, within_s: float, count: Callable[[], int | None] = count_oom_kills) -> None:
        self._within_s, self._count = within_s, count
        self._known, self._num_untold, self._rose_at = count(), 0, -math.inf

    def look(self) -> None:
        """A kill that was long before a death is not its cause."""
        known, now = self._known, self._count()
        self._known = now
        if known is not None and now is not None and now > known:
            self._rose_at = time.monotonic()
            self._num_untold += now - known
        elif time.monotonic() - self._rose_at > self._within_s:
            self._num_untold = 0

    def may_have_killed(self) -> bool:
        """Somebody, just now."""
        self.look()
        return self._num_untold > 0

    def explains_a_death(self) -> bool:
        """Of a process that was killed just now; each kill explains one."""
        may_have = self.may_have_killed()
        self._num_untold -= int(may_have)
        return may_have


def memory_bytes(
    root: Path = Path("/sys/fs/cgroup"), cgroup: Path = Path("/proc/self/cgroup")
) -> int:
    """What the processes of this control group may take together: its limit, the machine's memory
    where it has none."""
    limits = [psutil.virtual_memory().total]
    for file in _memory_files(root, cgroup, ("memory.max", "memory.limit_in_bytes")):
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        if text.isdecimal():  # no limit is `max`, or a number beyond any machine
            limits.append(int(text))
    return min(limits)


def free_memory_bytes(
    root: Path = Path("/sys/fs/cgroup"), cgroup: Path = Path("/proc/self/cgroup")
) -> int:
    """What the processes of this control group may still take: what the machine has left, or less
    where a limit of the group is nearer."""
    free = [psutil.virtual_memory().available]
    # A group's use counts against its own limit: that of the tree's top is the whole machine's.
    for file in _memory_files(root, cgroup, ("memory.max", "memory.limit_in_bytes")):
        name = "memory.current" if file.name == "memory.max" else "memory.usage_in_bytes"
        try:
            limit = int(file.read_text())
            used = int(file.with_name(name).read_text())
            statistics = file.with_name("memory.stat").read_text().split()
        except (OSError, ValueError):
            continue  # not there, or `max`
        # Files that nobody uses are given up before anything fails.
        words = dict(zip(statistics[::2], statistics[1::2], strict=False))
        free.append(limit - used + int(words.get("inactive_file", 0)))
    return max(0, min(free))


def free_processes(
    root: Path = Path("/sys/fs/cgroup"), cgroup: Path = Path("/proc/self/cgroup")
) -> int | None:
    """How many processes and threads this control group may still begin; None where nothing limits
    them."""
    for file in _files_of(root, cgroup, "pids", ("pids.max", "pids.max")):
        try:
            return int(file.read_text()) - int(file.with_name("pids.current").read_text())
        except (OSError, ValueError):
            continue  # not there, or `max`
    return None


def usable_cpus(
    root: Path = Path("/sys/fs/cgroup"), cgroup: Path = Path("/proc/self/cgroup")
) -> int:
    """How many CPUs this process may use at once: those that it may run on, or less where its
    control group has a quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [count or 1]
    for file in _files_of(root, cgroup, "cpu", ("cpu.max", "cpu.cfs_quota_us")):
        try:
            words = file.read_text().split()
            if len(words) == 1:  # version 1 has the period in a file of its own
                words.append(file.with_name("cpu.cfs_period_us").read_text())
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):
            continue  # not there, or `max`
        if quota > 0:  # version 1 has -1 where there is none
            found.append(max(1, round(quota / period)))
    return min(found)


def _memory_files(root: Path, cgroup: Path, names: tuple[str, str]) -> list[Path]:
    """Where a file about memory may lie. `names`: as for `_files_of`."""
    return _files_of(root, cgroup, "memory", names)


def _files_of(root: Path, cgroup: Path, controller: str, names: tuple[str, str]) -> list[Path]:
    """Where a file of a controller may lie, the likeliest first. `names`: of versions 2 and 1.

    A line of the cgroup file is `number:controllers:path`. Version 2 has no controllers there and
    one tree; version 1 has a tree for each controller. Inside a container the tree may begin at our
    own group, so that the path leads nowhere: hence the tree's top as well.
    """
    try:
        lines = cgroup.read_text().splitlines()
    except OSError:
        return []
    files: list[Path] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            tree, name = root, names[0]
        elif controller in controllers.split(","):
            tree, name = root / controller, names[1]
        else:
            continue
        files += [tree / path.lstrip("/") / name, tree / name]
    return files
