"""What goes wrong in a lab: the part of the vocabulary of faults that takes root and hosts.

faults = HostFaults(lab.hosts[1])
faults.inflict("drop_in", for_s=5)
faults.undo()
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from dougong.job.drills.vocabulary import known_fault
from dougong.testing.clock import LabClock
from dougong.testing.disk import Disk, flip_in_newest, tear_newest
from dougong.testing.host import Host
from dougong.testing.process import LabError

SLOW_MEGABYTES = 0.2
LOST_PART = 0.1

Undo = Callable[[], None]


class HostFaults:
    """Faults of one host, its cable, its disk, its clock. What lasts is undone after its time, and
    all of it by `undo`. What a worker does to itself is a drill's, not a lab's."""

    def __init__(
        self,
        host: Host,
        disk: Disk | None = None,
        checkpoints: Path | None = None,
        clock: LabClock | None = None,
    ) -> None:
        """`disk`: what the run's storage lies on; `checkpoints`: their folder, as this machine sees
        it; `clock`: by which the host's programs were started."""
        self._host, self._disk, self._checkpoints, self._clock = host, disk, checkpoints, clock
        self._undo: list[Undo] = []
        self._timers: list[threading.Timer] = []

    def inflict(self, name: str, for_s: float | None = None) -> None:
        """Do it. `for_s`: how long; None: as the vocabulary says. LabError for what this host
        cannot suffer."""
        fault = known_fault(name)
        if fault is None:
            raise LabError(f"no fault is called {name!r}")
        lasts_s = fault.lasts_s if for_s is None else for_s
        undo = self._act(name, lasts_s or 0.0)
        if undo is None:
            return
        self._undo.append(undo)
        if lasts_s is not None:
            timer = threading.Timer(lasts_s, undo)
            timer.daemon = True
            timer.start()
            self._timers.append(timer)

    def undo(self) -> None:
        """Take back all that can be; what was killed stays dead."""
        for timer in self._timers:
            timer.cancel()
        for undo in self._undo:
            with contextlib.suppress(LabError, OSError):  # it was undone in its time
                undo()
        self._undo, self._timers = [], []

    def _act(self, name: str, lasts_s: float) -> Undo | None:
        """Begin it; how it is taken back, None for what cannot be."""
        match name:
            case "pull_cable" | "pull_cable_short" | "pull_cable_for_good":
                self._host.unplug()
                return self._host.plug
            case "drop_in":
                return self._rule("INPUT -i eth0 -j DROP")
            case "drop_out":
                return self._rule("OUTPUT -o eth0 -j DROP")
            case "lossy_link":
                chance = f"-m statistic --mode random --probability {LOST_PART}"
                return self._rule(f"INPUT -i eth0 {chance} -j DROP")
            case "slow_link":
                self._host.limit(SLOW_MEGABYTES)
                return lambda: self._host.limit(None)
            case "jump_clock":
                return self._jump(lasts_s)
            case "kill_node":
                self._host.power_off()
                return self._host.plug
            case "kill_raylet":
                self._kill("raylet/raylet")
            case "kill_head":
                self._kill("gcs/gcs_server")
            case _:
                return self._act_on_storage(name, lasts_s)
        return None

    def _act_on_storage(self, name: str, lasts_s: float) -> Undo | None:
        match name:
            case "fill_run_directory" | "fill_checkpoints":
                disk = self._its_disk(name)
                disk.fill()
                return disk.empty
            case "tear_write":
                tear_newest(self._its_checkpoints(name))
            case "flip_on_disk":
                flip_in_newest(self._its_checkpoints(name))
            case _ if name.startswith("freeze_"):
                self._its_disk(name).freeze(lasts_s)  # it thaws by itself
            case _:
                raise LabError(f"{name} is not done to a host")
        return None

    def _rule(self, rule: str) -> Undo:
        """A rule of both firewalls, before all others; how it goes."""
        for version in (4, 6):
            self._host.place.rules([f"-I {rule}"], version)

        def undo() -> None:
            for version in (4, 6):
                self._host.place.rules([f"-D {rule}"], version)

        return undo

    def _jump(self, seconds: float) -> Undo:
        clock = self._clock
        if clock is None:
            raise LabError("the host's programs were not started by a clock of the lab's")
        clock.jump(seconds)
        return lambda: clock.jump(0)

    def _kill(self, words: str) -> None:
        """SIGKILL to the host's processes of that program."""
        for pid, command in self._host.processes().items():
            if words in command.partition(" ")[0]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _its_disk(self, name: str) -> Disk:
        if self._disk is None:
            raise LabError(f"{name}: the run lies on no disk of the lab's")
        return self._disk

    def _its_checkpoints(self, name: str) -> Path:
        if self._checkpoints is None:
            raise LabError(f"{name}: where the checkpoints lie was not said")
        return self._checkpoints
