"""A lab: hosts on one machine, joined by a switch, with one folder that all of them see."""

from __future__ import annotations

import itertools
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import dougong
from dougong.control.environment import child_environment
from dougong.deadlines import DEADLINES
from dougong.testing import network
from dougong.testing.host import Host, RayCluster, RayOptions
from dougong.testing.namespaces import SLEEP_AS_FIRST, Place
from dougong.testing.network import Cable, Traffic, version_of
from dougong.testing.process import LabError
from dougong.testing.requirements import what_is_missing

PREFIX = "dougong-lab-"
MOST_HOSTS = 200  # the last number of their addresses, below the switch's
_BRIDGE = "switch"
_TMP = Path("/tmp")

# What a host does before it is one: a name, files of its own where programs keep theirs. It then
# keeps the namespaces until it is killed, and prints its number as this machine counts.
# $1 its folder, $2 its name, $3 where its home is seen; then folders below /tmp that stay visible.
_HOST = f"""
set -e
read -r pid _ < /proc/self/stat
own=$1 name=$2 home=$3; shift 3
echo "$name" > /proc/sys/kernel/hostname
mount -t proc proc /proc
mount -t tmpfs -o mode=1777,size=2g tmpfs /dev/shm
mount --bind "$own/home" "$home"
for file in hosts hostname resolv.conf; do
  [ ! -e "/etc/$file" ] || mount --bind "$own/etc/$file" "/etc/$file"
done
for path; do
  mkdir -p "$own$path"
  mount --rbind "$path" "$own$path"
done
mount --rbind "$own/tmp" /tmp
echo "$pid"
{SLEEP_AS_FIRST}
"""


class Lab:
    """Hosts `node0`, `node1`, ... at 10.0.0.1, 10.0.0.2, ... (and fd00::1, ...), each with its own
    network, processes, name, home, /tmp and /dev/shm, and the rest of this machine's files.

    `hosts`: in that order. `shared`: a folder at the same path on all of them and outside.
    `folder`: everything of the lab. `switch`: where the cables meet. Commands in a host find the
    program that runs the lab: its Python, and its own dougong before any other.

    A context: its end, or the end of this process, even by SIGKILL, ends all that runs in the lab
    and removes its folder. Labs do not see each other, nor does this machine's own network see
    them. LabError when this machine cannot have one, with what is missing.
    """

    def __init__(
        self, num_hosts: int = 3, env: Mapping[str, str] | None = None, alone: bool = False
    ) -> None:
        """`env`: what commands find in every host beside the usual. `alone`: the lab outlives this
        process, until `close` is called on it."""
        missing = what_is_missing()
        if missing is not None:
            raise LabError(missing)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.shared = self.folder / "shared"
        self.hosts: list[Host] = []
        self.env = {**_usual_environment(self.folder), **(env or {})}
        self._waiting: list[subprocess.Popen[str]] = []
        self._keeper = _start_keeper(self.folder, alone)
        try:
            self.switch = Place(_read_pid(self._keeper, "the lab's keeper"))
            self._build(num_hosts)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def keeper_pid(self) -> int:
        """The process whose end is the lab's end."""
        return self._keeper.pid

    def close(self) -> None:
        """End everything that runs in the lab and remove its folder. Once this returns nothing of
        it is left."""
        self._keeper.terminate()
        for process in (self._keeper, *self._waiting):
            try:
                process.wait(DEADLINES.kill_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _build(self, num_hosts: int) -> None:
        for name in ("shared", "home", "bin"):
            (self.folder / name).mkdir()
        _write_program(self.folder / "bin" / "dougong")
        self.switch.ip(
            [
                "link set lo up",
                *network.switch_lines(_BRIDGE),
                f"addr add {network.SWITCH_ADDRESS}/24 dev {_BRIDGE}",
            ]
        )
        self.add_hosts(num_hosts)

    def add_hosts(self, number: int) -> list[Host]:
        """More hosts, with the next names and addresses; those that are there know them by name."""
        first = len(self.hosts)
        if first + number > MOST_HOSTS:
            raise LabError(f"a lab has at most {MOST_HOSTS} hosts, asked: {first + number}")
        new = range(first, first + number)
        starting = [self._start_host(index) for index in new]
        self._waiting += starting
        for index, process in zip(new, starting):
            self.hosts.append(self._join(index, _read_pid(process, f"host node{index}")))
        for host in self.hosts:
            host.write_etc("hosts", self.hosts_file(host))
        self._count()
        return self.hosts[first:]

    def _start_host(self, index: int) -> subprocess.Popen[str]:
        """Start the host's first process, which prints its number when it has its namespaces and
        files."""
        own = _make_files(self.folder / f"node{index}")
        visible = [self.folder, _program(), Path(sys.prefix), Path(sys.base_prefix)]
        below_tmp = [str(path) for path in visible if path.is_relative_to(_TMP)]
        inside = ["nsenter", "--target", str(self.switch.pid), "--net", "--pid", "--"]
        namespaces = ["--net", "--uts", "--pid", "--mount", "--fork", "--kill-child"]
        given = [str(own), own.name, str(self.folder / "home"), *below_tmp]
        return subprocess.Popen(
            [*inside, "unshare", *namespaces, "sh", "-c", _HOST, "host", *given],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _join(self, index: int, pid: int) -> Host:
        """Lay the host's cable."""
        cable = Cable(self.switch, f"port{index}", Place(pid))
        addresses = [f"10.0.0.{index + 1}", f"fd00::{index + 1:x}"]
        self.switch.ip(network.cable_lines(_BRIDGE, cable.port, "eth0", pid))
        lengths = [f"{addresses[0]}/24", f"{addresses[1]}/64"]
        cable.host.ip(["link set lo up", *network.interface_lines("eth0", lengths)])
        for version in (4, 6):
            cable.host.rules(network.empty_chains(), version)
        return Host(cable, self.folder / f"node{index}", addresses, self.env)

    def add_network(self, interface: str, prefix: str) -> None:
        """A second network: each host that is there gets this interface, with an address of its
        own number that begins with `prefix`, such as `192.168.7`."""
        bridge = f"to-{interface}"
        self.switch.ip(network.switch_lines(bridge))
        for index, host in enumerate(self.hosts):
            port = f"{interface}-{index}"
            address = f"{prefix}.{index + 1}"
            self.switch.ip(network.cable_lines(bridge, port, interface, host.place.pid))
            host.place.ip(network.interface_lines(interface, [f"{address}/24"]))
            host.addresses.append(address)
        self._count()

    def hosts_file(self, of: Host, own_name_is_local: bool = False) -> str:
        """The text of `/etc/hosts`: every host by name; with `own_name_is_local` a host's own name
        is 127.0.1.1, as Debian's installer writes it."""
        lines = ["127.0.0.1 localhost"]
        for host in self.hosts:
            local = own_name_is_local and host is of
            lines.append(f"{'127.0.1.1' if local else host.address} {host.name}")
        return "\n".join(lines) + "\n"

    def _count(self) -> None:
        """Count what arrives from each address of each other host, from now on."""
        every = list(itertools.chain.from_iterable(host.addresses for host in self.hosts))
        for host in self.hosts:
            for version in (4, 6):
                known = {*network.read_counters(host.place, version), *host.addresses}
                new = [one for one in every if version_of(one) == version and one not in known]
                host.place.rules([network.counted(one) for one in new], version)

    # Ray.

    def start_ray(
        self,
        hosts: Sequence[Host] | None = None,
        *,
        num_cpus: int | None = None,
        resources: Mapping[str, float] | None = None,
        labels: Callable[[Host], Mapping[str, str]] | None = None,
    ) -> RayCluster:
        """A Ray cluster of these hosts, all by default, the first of which is its head. Once this
        returns every node has joined. `labels`: those of a host."""
        chosen = list(self.hosts if hosts is None else hosts)

        def options(host: Host) -> RayOptions:
            return RayOptions(num_cpus, resources or {}, labels(host) if labels else {})

        head, *others = chosen
        cluster = head.await_ray(head.launch_ray(None, options(head)), None)
        started = [(host, host.launch_ray(cluster, options(host))) for host in others]
        for host, process in started:
            host.await_ray(process, cluster)
        return cluster

    # What goes wrong in the network.

    def drop(self, sender: Host, receiver: Host, both_ways: bool = False) -> None:
        """What `sender` sends to `receiver` is lost from now on; the other way too, if asked."""
        for version in (4, 6):
            lost = [one for one in sender.addresses if version_of(one) == version]
            receiver.place.rules([network.dropped(one) for one in lost], version)
        if both_ways:
            self.drop(receiver, sender)

    def set_mtu(self, hosts: int, switch: int = network.NORMAL_MTU) -> None:
        """The largest packet that hosts send, and that the switch passes on. One in between is lost
        and nobody is told, as on a switch of Ethernet frames."""
        for host in self.hosts:
            # A packet of several segments would pass the switch as one, whatever their size.
            host.place.ip(
                [f"link set eth0 mtu {hosts} gso_max_segs {1 if hosts > switch else 65535}"]
            )
            self.switch.ip([f"link set {host.cable.port} mtu {switch}"])

    def limit(self, mb_s: float | None) -> None:
        """Hold every host to so many megabytes (10^6) a second, each way; None: no limit."""
        for host in self.hosts:
            host.limit(mb_s)

    def kill_dns(self) -> None:
        """Every host asks a name server that never answers."""
        for version, protocol in ((4, "udp"), (4, "tcp")):
            rule = f"-A INPUT -p {protocol} --dport 53 -j DROP"
            self.switch.rules([rule], version)
        for host in self.hosts:
            host.set_dns(network.SWITCH_ADDRESS)

    def use_debian_hosts(self) -> None:
        """Every host's own name stands for 127.0.1.1 there."""
        for host in self.hosts:
            host.write_etc("hosts", self.hosts_file(host, own_name_is_local=True))

    def heal(self) -> None:
        """Undo all that went wrong in the network: drops, closed ports, limits, packet sizes, name
        server, names. Counters go on."""
        for host in self.hosts:
            for version in (4, 6):
                host.place.rules(network.flushed([network.DROP, network.ALLOW]), version)
            host.plug()
            host.set_dns(None)
            host.write_etc("hosts", self.hosts_file(host))
        self.limit(None)
        self.set_mtu(network.NORMAL_MTU)

    def bytes_between(self, sender: Host, receiver: Host) -> Traffic:
        """What has arrived at `receiver` from `sender` since both were there."""
        counters: dict[str, Traffic] = {}
        for version in (4, 6):
            counters |= network.read_counters(receiver.place, version)
        return sum((counters[one] for one in sender.addresses), Traffic())


def _make_files(own: Path) -> Path:
    """The folders and files that a host has to itself."""
    for name in ("home", "tmp", "etc", "output"):
        (own / name).mkdir(parents=True)
    (own / "tmp").chmod(0o1777)
    (own / "etc" / "hostname").write_text(f"{own.name}\n")
    for name in ("hosts", "resolv.conf"):
        (own / "etc" / name).touch()
    return own


def _write_program(path: Path) -> None:
    """`dougong`, whichever the installed script of that name would call."""
    path.write_text(f"#!{sys.executable}\nfrom dougong.cli.main import main\n\nmain()\n")
    path.chmod(0o755)


def _usual_environment(folder: Path) -> dict[str, str]:
    """What commands find: this Python's programs and this dougong first, one compute thread, and a
    token of the lab's own for Ray."""
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "PATH": f"{folder}/bin:{Path(sys.executable).parent}:{system}",
        "PYTHONPATH": str(_program()),
        "PYTHONUNBUFFERED": "1",
        "HOME": str(folder / "home"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


def _program() -> Path:
    """The folder that holds the package of which this is part."""
    return Path(dougong.__file__).resolve().parents[1]


def _start_keeper(folder: Path, alone: bool) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "dougong.testing.keeper", str(folder)]
    return subprocess.Popen(
        [*words, "alone" if alone else "watched"],
        env=child_environment({}),
        stdin=subprocess.DEVNULL if alone else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is for us: we end the lab in order
    )


def _read_pid(process: subprocess.Popen[str], what: str) -> int:
    """The number that it prints when all is well. LabError with what it printed instead."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], DEADLINES.lab_host_s)
    if not ready:
        raise LabError(f"{what}: not there within {DEADLINES.lab_host_s:g} s")
    line = process.stdout.readline()
    if line.strip().isdecimal():
        process.stdout.close()
        return int(line)
    process.terminate()  # it may print for ever
    rest, _ = process.communicate(timeout=DEADLINES.kill_s)
    raise LabError(f"{what}: {' '.join((line + rest).split()) or 'ended at once'}")
