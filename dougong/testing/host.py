"""A host of a lab: a machine as a program sees one, with its own name, network, processes, home
and temporary files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dougong.control.processes import process_exists
from dougong.deadlines import DEADLINES
from dougong.testing.network import Cable, interface_lines, limit_words, open_to, version_of
from dougong.testing.process import Done, HostProcess, LabError

RAY_PORT = 6379
_OBJECT_STORE_BYTES = 80_000_000  # Ray's least is 75 MB


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster in a lab: the address of its head, as `--address` takes it."""

    address: str


class Host:
    """One host. Made by a `Lab`, which also ends it."""

    def __init__(
        self, cable: Cable, folder: Path, addresses: Sequence[str], env: Mapping[str, str]
    ) -> None:
        """`cable`: of `eth0`; `folder`: its own files, as the machine outside sees them;
        `addresses`: of its interfaces, the main one first; `env`: what its commands find."""
        self.name = folder.name
        self.cable = cable
        self.place = cable.host
        self.folder = folder
        self.addresses = list(addresses)
        self.env = dict(env)
        self._num_started = 0

    @property
    def address(self) -> str:
        """The main one, IPv4."""
        return self.addresses[0]

    @property
    def address6(self) -> str:
        """The first of IPv6, without brackets."""
        return next(one for one in self.addresses if version_of(one) == 6)

    def __repr__(self) -> str:
        return f"Host({self.name}, {self.address})"

    # Commands.

    def run(
        self,
        words: Sequence[str],
        timeout_s: float = DEADLINES.lab_command_s,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
    ) -> Done:
        """Run a command to its end. Past the limit it is killed, and LabError holds what it
        printed. `env`: changes to the host's; None takes a variable away."""
        process = self.start(words, env, cwd)
        status = process.wait(timeout_s)
        return Done(status, process.output, process.seconds)

    def check(
        self,
        words: Sequence[str],
        timeout_s: float = DEADLINES.lab_command_s,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
    ) -> str:
        """Run a command that must succeed; what it printed. LabError when it fails."""
        done = self.run(words, timeout_s, env, cwd)
        if done.status != 0:
            raise LabError(
                f"{self.name}: `{' '.join(words)}` ended with {done.status}:\n{done.output}"
            )
        return done.output

    def start(
        self,
        words: Sequence[str],
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
    ) -> HostProcess:
        """Start a command, a session of its own in the host's home (or `cwd`), and do not wait."""
        self._num_started += 1
        log = self.folder / "output" / f"{os.getpid()}-{self._num_started:04d}.log"
        with log.open("wb") as out:
            child = subprocess.Popen(
                self.entering(["setsid", *words], cwd),
                env=self.environment(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        return HostProcess(self.name, words, child, log)

    def entering(self, words: Sequence[str], cwd: Path | None = None) -> list[str]:
        """The words that run a command in this host, to be called from outside with
        `environment()`."""
        inside = ["--target", str(self.place.pid), "--mount", "--uts", "--net", "--pid"]
        # The folder is entered where the host's own mounts are seen.
        there = ["sh", "-c", 'cd "$0" && exec "$@"', str(cwd or self.env["HOME"]), *words]
        return ["nsenter", *inside, "--", *there]

    def environment(self, changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """What a command finds in its environment: the host's variables with `changes`."""
        merged = {**self.env, **(changes or {})}
        return {key: value for key, value in merged.items() if value is not None}

    def processes(self) -> dict[int, str]:
        """Its living processes but the first, which keeps it: number, as the machine outside
        counts, and command line."""
        own = os.readlink(f"/proc/{self.place.pid}/ns/pid")
        found = {}
        for pid in psutil.pids():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if os.readlink(f"/proc/{pid}/ns/pid") == own and process_exists(pid):
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    found[pid] = b" ".join(words).decode(errors="replace").strip()
        found.pop(self.place.pid, None)
        return found

    # Ray.

    def start_ray(
        self,
        cluster: RayCluster | None = None,
        *,
        num_cpus: int | None = None,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str | None] | None = None,
    ) -> RayCluster:
        """Start a Ray node here that joins the cluster, or without one is the head of a new one.
        Once this returns it has joined."""
        options = RayOptions(num_cpus, resources or {}, labels or {})
        process = self.launch_ray(cluster, options, env)
        return self.await_ray(process, cluster)

    def launch_ray(
        self,
        cluster: RayCluster | None,
        options: RayOptions,
        env: Mapping[str, str | None] | None = None,
    ) -> HostProcess:
        """Begin what `start_ray` does, so that several hosts do it at once."""
        where = ["--head", f"--port={RAY_PORT}", "--include-dashboard=false"]
        if cluster is not None:
            where = [f"--address={cluster.address}"]
        words = ["ray", "start", *where, f"--node-ip-address={self.address}", *options.words()]
        return self.start(words, env)

    def await_ray(self, process: HostProcess, cluster: RayCluster | None) -> RayCluster:
        """Finish it. LabError with Ray's own words when the node does not start."""
        status = process.wait(DEADLINES.lab_ray_s)
        if status != 0:
            raise LabError(f"{self.name}: `ray start` ended with {status}:\n{process.output}")
        return cluster or RayCluster(f"{self.address}:{RAY_PORT}")

    def stop_ray(self) -> None:
        """`ray stop`, which in its own process namespace ends this host's Ray alone."""
        self.check(["ray", "stop", "--grace-period", "5"], DEADLINES.lab_ray_s)

    def kill_ray(self) -> None:
        """SIGKILL to every process of this host's Ray, its actors and what those have started."""
        ours = self.processes()
        roots = [pid for pid, words in ours.items() if _is_of_ray(words) or _is_of_ray(_name(pid))]
        self._kill({*roots, *_descendants(roots)} & set(ours))

    def kill_named(self, name: str) -> None:
        """SIGKILL to the processes of that name alone, such as `raylet`, or `gcs_server`, which is
        the head of a Ray cluster. LabError where there is none."""
        found = {pid for pid in self.processes() if _name(pid) == name}
        if not found:
            raise LabError(f"{self.name}: there is no process called {name}")
        self._kill(found)

    # Bad luck.

    def crash(self) -> None:
        """As if the power had failed and come back."""
        self.power_off()
        self.plug()

    def power_off(self) -> None:
        """As if the power had failed: the cable is dead first, so that nobody hears a connection
        end; then everything that ran here is gone. `plug` is what brings the host back."""
        self.unplug()
        self._kill(set(self.processes()))

    def unplug(self) -> None:
        """Take the cable of `eth0` out: nothing arrives and nothing leaves."""
        self.cable.switch.ip([f"link set {self.cable.port} down"])

    def plug(self) -> None:
        """Put the cable back."""
        self.cable.switch.ip([f"link set {self.cable.port} up"])

    def allow_only(self, ports: Sequence[int | tuple[int, int]], from_: Host) -> None:
        """From now on new connections from that host are lost (no answer, as with a firewall that
        drops) but for those to `ports`: numbers, or pairs of first and last. `Lab.heal` undoes it.
        """
        for version in (4, 6):
            sources = [one for one in from_.addresses if version_of(one) == version]
            self.place.rules(open_to(ports, sources), version)

    def limit(self, mb_s: float | None) -> None:
        """Hold `eth0` to so many megabytes (10^6) a second, each way; None: no limit."""
        for place, interface in ((self.place, "eth0"), (self.cable.switch, self.cable.port)):
            with contextlib.suppress(LabError) if mb_s is None else contextlib.nullcontext():
                place.net(limit_words(interface, mb_s))

    def add_bridge(self, interface: str, address: str) -> None:
        """An interface that leads to nobody, such as `docker0` with 172.17.0.1/16, which may be the
        same on every host."""
        self.place.ip([f"link add {interface} type bridge", *interface_lines(interface, [address])])

    def set_dns(self, server: str | None) -> None:
        """Which name server `/etc/resolv.conf` names; None: none, so that names which `/etc/hosts`
        does not hold are unknown at once."""
        self.write_etc("resolv.conf", "" if server is None else f"nameserver {server}\n")

    def write_etc(self, name: str, text: str) -> None:
        """What `/etc/hosts`, `/etc/resolv.conf` or `/etc/hostname` holds here."""
        (self.folder / "etc" / name).write_text(text)  # in place: the mount is of this very file

    def own(self, path: Path, copied: bool = False) -> Path:
        """From now on this host has a folder of its own at `path`, empty or with a copy of what is
        there, as one that forgot to mount the shared one; returns where it lies outside."""
        self._num_started += 1
        inside = self.folder / "own" / str(self._num_started)
        if copied:
            shutil.copytree(path, inside, symlinks=True)
        else:
            inside.mkdir(parents=True)
        path.mkdir(parents=True, exist_ok=True)
        self.place.mounts(["mount", "--bind", str(inside), str(path)])
        return inside

    def make_read_only(self, path: Path) -> None:
        """From now on this host can only read what lies under `path`."""
        self.place.mounts(["mount", "--bind", str(path), str(path)])
        self.place.mounts(["mount", "-o", "remount,ro,bind", str(path)])

    def give_back(self, path: Path) -> None:
        """Undo `own` or `make_read_only`."""
        self.place.mounts(["umount", "--lazy", str(path)])

    def _kill(self, pids: Iterable[int]) -> None:
        """SIGKILL, and wait until none of them lives. They are this lab's, and it holds their
        namespace, so that a number is looked at and used within the same moment."""
        waiting = set(pids)
        for pid in waiting:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + DEADLINES.kill_s
        while any(map(process_exists, waiting)):
            if time.monotonic() > until:
                raise LabError(f"{self.name}: processes {waiting} outlive SIGKILL")
            time.sleep(DEADLINES.exit_poll_every_s)


@dataclass(frozen=True)
class RayOptions:
    """What `ray start` is told of a node."""

    num_cpus: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def words(self) -> list[str]:
        """Its command line's words, beside address and port."""
        words = ["--disable-usage-stats", f"--object-store-memory={_OBJECT_STORE_BYTES}"]
        if self.num_cpus is not None:
            words.append(f"--num-cpus={self.num_cpus}")
        if self.resources:
            words.append(f"--resources={json.dumps(dict(self.resources))}")
        if self.labels:
            pairs = [f"{key}={value}" for key, value in self.labels.items()]
            words.append(f"--labels={','.join(pairs)}")
        return words


def _name(pid: int) -> str:
    """What a process is called, which may be another name than its command's."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _is_of_ray(words: str) -> bool:
    """Ray's own processes and its workers, and the agents of runs over Ray, which are called
    `ray::...`."""
    return words.startswith("ray::") or "/site-packages/ray/" in words


def _descendants(pids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return found
