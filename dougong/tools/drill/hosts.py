"""A lab in which runs are struck from outside: machines, cables, disks, clocks and Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from dougong.errors import LaunchError
from dougong.job.drills.vocabulary import known_fault
from dougong.records.directory import RunDir
from dougong.records.status import WorkerState
from dougong.testing import Disk, Host, HostFaults, HostProcess, Lab, LabClock, RayCluster
from dougong.testing.host import RayOptions
from dougong.tools.drill.score import Struck

NUM_HOSTS = 5
LABEL = "lab=work"
_WORK, _HEAD = {"lab": "work"}, {"lab": "head"}
_MEGABYTES = 256
_PATIENT = {"RAY_raylet_start_wait_time_s": "80"}
"""What Ray takes for a node that does not start is a machine that is busy."""
_LOGS, _CHECKPOINTS, _STORE, _OWN = "logs", "checkpoints", "store", "own"


@dataclass
class DrillHosts:
    """node0 has Ray's head and the controllers; each other host has room for one worker, so that
    one of them is to spare. A single host has no Ray. Runs lie on a disk of the lab's, their
    checkpoints on another one, their logs on a third one.

    A context. LabError where this machine can have no lab.
    """

    num_hosts: int = NUM_HOSTS
    lab: Lab = field(init=False)
    cluster: RayCluster | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._clocks: dict[str, LabClock] = {}
        self._undo: list[Callable[[], object]] = []
        self._ill: set[str] = set()

    def __enter__(self) -> DrillHosts:
        self.lab = Lab(num_hosts=self.num_hosts)
        try:
            self._mount()
            for host in self.lab.hosts:
                folder = self.lab.shared / f"clock-{host.name}"
                folder.mkdir()
                self._clocks[host.name] = LabClock(folder)
            if self.num_hosts > 1:
                self.begin_ray()
        except BaseException:
            self.lab.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lab.close()

    def _mount(self) -> None:
        hosts, shared = self.lab.hosts, self.lab.shared
        self._store = Disk(hosts, shared / _STORE, _MEGABYTES)
        self._checkpoints = Disk(hosts, shared / _CHECKPOINTS, _MEGABYTES)
        self._logs = Disk(hosts, shared / _LOGS, _MEGABYTES)
        self._own = {host.name: Disk([host], shared / _OWN, _MEGABYTES) for host in hosts}

    # Ray

    def begin_ray(self) -> None:
        """A cluster of all hosts; what was there of one is ended."""
        head, *others = self.lab.hosts
        for host in self.lab.hosts:
            host.kill_ray()
        self.cluster = head.start_ray(num_cpus=1, labels=_HEAD, env=dict(_PATIENT))
        self._join(others)
        self._ill.clear()

    def _join(self, hosts: Sequence[Host]) -> None:
        options = RayOptions(num_cpus=1, labels=_WORK)
        started = []
        for host in hosts:
            env = {**self._clocks[host.name].env, **_PATIENT}
            started.append((host, host.launch_ray(self.cluster, options, env)))
        for host, process in started:
            host.await_ray(process, self.cluster)

    # Runs

    def begin(self, name: str, values: dict[str, Any]) -> HostProcess:
        """`dougong run` of this job on node0, in a run directory of that name."""
        job, run = self.prepare(name, values)
        where = ["--no-ray"] if self.cluster is None else ["--address", self.cluster.address]
        return self.start(["dougong", "run", str(job), *where, "--run-dir", str(run)])

    def start(self, words: Sequence[str]) -> HostProcess:
        """A command on node0, by that host's clock."""
        head = self.lab.hosts[0]
        return head.start(words, env=dict(self._clocks[head.name].env))

    def prepare(self, name: str, values: dict[str, Any]) -> tuple[Path, Path]:
        """The job file and the run directory, as the hosts see them."""
        job, run = self.lab.shared / f"{name}.yaml", self._store.outside / name
        job.write_text(yaml.safe_dump(values))
        run.mkdir()
        # Seen from outside by other paths than from the hosts: links that hold on both sides.
        for kind in (_CHECKPOINTS, _LOGS):
            (run / kind).symlink_to(f"../../{kind}/{name}")
        for disk in (self._checkpoints, self._logs):
            (disk.outside / name).mkdir()
        return job, self._store.path / name

    def run_dir(self, name: str) -> RunDir:
        """That run's directory, as this machine sees it."""
        return RunDir(self._store.outside / name)

    def host_of(self, worker: str, run_dir: RunDir) -> Host:
        """Where it works now. LaunchError where it does not."""
        place = _living(run_dir, worker).host
        for host in self.lab.hosts:
            if place in (host.name, *host.addresses):
                return host
        raise LaunchError(f"{run_dir.path}: {worker} is on {place}, which is no host of the lab")

    def left(self) -> list[str]:
        """Processes of runs that still live on any host, in words."""
        found = []
        for host in self.lab.hosts:
            for pid, words in host.processes().items():
                if any(ours in words for ours in ("dougong.launcher", "dougong run")):
                    found.append(f"process {pid} on {host.name}: {words}")
        return found

    # Faults

    def strike(self, name: str, worker: str, run_dir: RunDir, for_s: float | None) -> Struck:
        """Do it to the host of this worker, or to what that host uses."""
        fault = known_fault(name)
        assert fault is not None, "faults come from the table"
        host = self.lab.hosts[0] if fault.target == "head" else self.host_of(worker, run_dir)
        pid = _living(run_dir, worker).pid
        at = time.monotonic()
        for disk in self._disks(name, host):
            faults = HostFaults(host, disk, run_dir.checkpoints, self._clocks[host.name])
            self._undo.append(faults.undo)
            faults.inflict(name, for_s)
        if fault.culprits == ("worker",):  # a spoilt checkpoint is found when it is needed
            self.host_of(worker, run_dir).check(["kill", "-9", str(pid)])
        if fault.kind in ("node_lost", "partition") or "ray" in fault.needs:
            self._ill.add(host.name)
        return Struck(name, worker, at, host.name)

    def _disks(self, name: str, host: Host) -> Sequence[Disk]:
        """What it happens to; what happens to no disk takes any."""
        match name:
            case "freeze_on_one_node":
                return [self._apart(host)]
            case "fill_checkpoints":
                return [self._checkpoints]
            case _ if name.startswith("freeze_logs"):
                return [self._logs]
            case _ if name.startswith("freeze_checkpoints"):
                return [self._checkpoints]
            case _ if name.startswith("freeze_all"):
                return [self._store, self._checkpoints, self._logs]
            case _:
                return [self._store]

    def _apart(self, host: Host) -> Disk:
        """Storage of this host alone where the others have their checkpoints: what it writes there
        from now on waits when that hangs, and nobody else does."""
        disk, shared = self._own[host.name], self._checkpoints
        folders = [entry for entry in shared.outside.rglob("*") if entry.is_dir()]
        for folder in sorted(folders):
            (disk.outside / folder.relative_to(shared.outside)).mkdir(exist_ok=True)
        host.place.mounts(["mount", "--bind", str(disk.path), str(shared.path)])
        self._undo.append(lambda: host.place.mounts(["umount", "-l", str(shared.path)]))
        return disk

    def heal(self) -> None:
        """Everything is as it was: hosts that were lost begin anew, as after a repair."""
        for undo in self._undo:
            undo()
        self._undo.clear()
        self.lab.heal()
        for clock in self._clocks.values():
            clock.jump(0)
        if self.lab.hosts[0].name in self._ill:
            self.begin_ray()
            return
        ill = [host for host in self.lab.hosts if host.name in self._ill]
        for host in ill:
            host.crash()
        self._join(ill)
        self._ill.clear()


def _living(run_dir: RunDir, worker: str) -> WorkerState:
    """What the run's status has of it; its number is as its host counts. LaunchError where it does
    not live."""
    status = run_dir.read_status()
    for known in status.workers if status is not None else ():
        if known.name == worker and known.alive:
            return known
    raise LaunchError(f"{run_dir.path}: {worker} is not there now")
