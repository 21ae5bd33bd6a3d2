"""The vocabulary of faults: what each one does, what it needs, and what a diagnosis of it must say.

One table for all that orders faults or scores answers: `drill:` in a job file, `dougong drill`, the
lab's campaigns, the benchmark. Who can do them is elsewhere: `fault.self_inflicted` what a process
does to itself, `training.drill` what happens to numbers, `testing` what is done to the hosts,
cables, disks and clocks of a lab.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Target = Literal[
    "worker",
    "agent",
    "fork_server",
    "node",
    "link",
    "storage",
    "head",
    "raylet",
    "controller",
]
"""To what a fault is done."""

Need = Literal["root", "hosts", "cgroup", "ray"]
"""What it takes: hosts: of a lab, or nodes to spare; ray: a Ray that is the run's own."""

WORKER, AGENT, FORK_SERVER = ("worker",), ("agent",), ("fork_server",)
LINK, STORAGE = ("link",), ("storage",)
CUT_OFF = ("link", "node")
"""From outside, a node whose cable is out cannot be told from one whose power is."""

LAB: tuple[Need, ...] = ("root", "hosts")

_NEEDS_LAB = "it is done to hosts of a lab, by root: python -m dougong.testing"
_NEEDS_RAY = "other runs may use this Ray: only in a lab, python -m dougong.testing"
_NEEDS_CGROUP = "it takes a control group of root's, and may hurt others of its host"
_FALSIFIES = "what is computed once is compared by an audit alone (fault.audit): only in a test"
_IS_TWO = "order its two parts by themselves"


@dataclass(frozen=True)
class NamedFault:
    """A row. `kind`, `culprits`: the class that a diagnosis must give (or `or_kind`, where the two
    cannot be told apart), and who may be named; where `must_be_named` is false, to name nothing is
    right too.

    `lasts_s`: how long it lasts if nobody says otherwise; None: a moment, or for good. `is_silent`:
    no step looks different, only its numbers. `refusal`: why a job file cannot order it; empty: it
    can. `parts`: the two faults of a pair; either may be what is named first.
    """

    name: str
    does: str
    target: Target
    kind: str
    culprits: tuple[str, ...]
    needs: tuple[Need, ...] = ()
    must_be_named: bool = True
    lasts_s: float | None = None
    is_silent: bool = False
    refusal: str = ""
    parts: tuple[str, ...] = ()
    or_kind: str = ""


MOST_APART_S = 5.0
"""The second fault of a pair comes at most so long after the first."""

TURN_S = 0.05
"""A slow process is stopped, and goes on, in turns of so many seconds."""


def _on_worker(name: str, does: str, kind: str, lasts_s: float | None = None) -> NamedFault:
    return NamedFault(name, does, "worker", kind, WORKER, lasts_s=lasts_s)


def _on_storage(name: str, does: str, lasts_s: float | None, must_be_named: bool) -> NamedFault:
    return NamedFault(
        name,
        does,
        "storage",
        "storage",
        STORAGE,
        needs=LAB,
        must_be_named=must_be_named,
        lasts_s=lasts_s,
        refusal=_NEEDS_LAB,
    )


def _on_cable(
    name: str, does: str, kind: str, culprits: tuple[str, ...], lasts_s: float | None
) -> NamedFault:
    return NamedFault(
        name,
        does,
        "link",
        kind,
        culprits,
        needs=LAB,
        lasts_s=lasts_s,
        refusal=_NEEDS_LAB,
        or_kind="node_lost",
    )


def _flip(where: str, *, has_copy: bool, is_always_there: bool = True) -> NamedFault:
    """`has_copy`: the number is compared with one before the step is committed."""
    return NamedFault(
        f"flip_{where}",
        f"one bit of one number of a worker's {where} changes, once",
        "worker",
        "corruption",
        ("worker", "device", "link"),
        must_be_named=has_copy and is_always_there,
        is_silent=not has_copy,
        refusal="" if has_copy else _FALSIFIES,
    )


def _pair(first: NamedFault, second: NamedFault) -> NamedFault:
    return NamedFault(
        f"{first.name}+{second.name}",
        f"{first.name}, and {second.name} up to {MOST_APART_S:g} s later",
        first.target,
        first.kind,
        first.culprits,
        refusal=_IS_TWO,
        parts=(first.name, second.name),
    )


_WORKERS = (
    _on_worker("kill", "SIGKILL to a worker", "crash"),
    _on_worker("segfault", "a worker reads where nothing is: SIGSEGV", "crash"),
    _on_worker("abort", "SIGABRT to a worker, as a C++ library that gives up", "crash"),
    _on_worker("leave", "a worker ends with status 0 in the middle of its work", "crash"),
    _on_worker("raise", "a worker raises an exception, once", "exception"),
    _on_worker("memory_error", "a worker raises MemoryError, once", "out_of_memory"),
    _on_worker("notice", "SIGTERM to a worker, as before a preemption", "preemption"),
    _on_worker("stop", "SIGSTOP to a worker", "hang"),
    _on_worker("hold_interpreter", "a worker's interpreter lock is held", "hang", lasts_s=60.0),
    NamedFault(
        "pause",
        "a worker is stopped for a moment and goes on, as a machine under load",
        "worker",
        "",
        (),
        must_be_named=False,
        lasts_s=1.0,
    ),
    NamedFault(
        "slow_cpu",
        "a worker gets a part of its processor's time",
        "worker",
        "slow",
        ("worker", "node"),
        must_be_named=False,
        lasts_s=10.0,
    ),
    NamedFault(
        "oom_kill",
        "a worker's control group is out of memory, and the kernel kills it",
        "worker",
        "out_of_memory",
        WORKER,
        needs=("root", "cgroup"),
        refusal=_NEEDS_CGROUP,
    ),
    NamedFault(
        "nan",
        "one number of an activation is NaN, once",
        "worker",
        "corruption",
        ("worker", "workers", "device"),
    ),
    _flip("weight", has_copy=True),
    _flip("gradient", has_copy=False),
    _flip("moment", has_copy=True, is_always_there=False),  # none before the first update
    _flip("activation", has_copy=False),
    _flip("message", has_copy=True),
)

_AGENTS = (
    NamedFault("kill_agent", "SIGKILL to the agent of a worker", "agent", "crash", AGENT),
    NamedFault("stop_agent", "SIGSTOP to the agent of a worker", "agent", "hang", AGENT),
    NamedFault(
        "kill_fork_server",
        "SIGKILL to the fork server of a worker; another one stands by",
        "fork_server",
        "crash",
        FORK_SERVER,
        must_be_named=False,
    ),
    NamedFault(
        "stop_fork_server",
        "SIGSTOP to the fork server of a worker; another one takes over",
        "fork_server",
        "hang",
        FORK_SERVER,
    ),
    NamedFault(
        "zombie_return",
        "an agent is stopped until it is replaced, and goes on: nothing that it says counts",
        "agent",
        "hang",
        AGENT,
        lasts_s=30.0,
    ),
)

_MACHINES = (
    NamedFault(
        "kill_node",
        "everything on a node is gone at once, and its cable is dead",
        "node",
        "node_lost",
        CUT_OFF,
        needs=LAB,
        refusal=_NEEDS_LAB,
    ),
    NamedFault(
        "kill_raylet",
        "SIGKILL to a node's raylet",
        "raylet",
        "crash",
        ("raylet",),
        needs=(*LAB, "ray"),
        must_be_named=False,
        refusal=_NEEDS_RAY,
    ),
    NamedFault(
        "kill_head",
        "SIGKILL to gcs_server, the head of Ray",
        "head",
        "crash",
        ("head",),
        needs=(*LAB, "ray"),
        must_be_named=False,
        refusal=_NEEDS_RAY,
    ),
    NamedFault(
        "kill_controller",
        "SIGKILL to the controller",
        "controller",
        "crash",
        ("controller",),
    ),
    NamedFault(
        "stop_controller",
        "SIGSTOP to the controller, which goes on, or is followed by another",
        "controller",
        "hang",
        ("controller",),
        must_be_named=False,
        lasts_s=30.0,
    ),
    NamedFault(
        "jump_clock",
        "a host's wall clock jumps, forward or back",
        "node",
        "",
        (),
        needs=LAB,
        must_be_named=False,
        lasts_s=3600.0,
        refusal=_NEEDS_LAB,
    ),
)

_LINKS = (
    NamedFault(
        "pull_cable_short",
        "a host's cable is out for a moment",
        "link",
        "",
        (),
        needs=LAB,
        must_be_named=False,
        lasts_s=1.0,
        refusal=_NEEDS_LAB,
    ),
    _on_cable("pull_cable", "a host's cable is out, and comes back", "partition", CUT_OFF, 14.0),
    _on_cable(
        "pull_cable_for_good", "a host's cable is out and stays out", "partition", CUT_OFF, None
    ),
    _on_cable("drop_in", "a host hears nobody, and is heard", "partition", CUT_OFF, 30.0),
    _on_cable("drop_out", "a host is heard by nobody, and hears", "partition", CUT_OFF, 30.0),
    NamedFault(
        "slow_link",
        "a host's cable carries little",
        "link",
        "slow",
        LINK,
        needs=LAB,
        must_be_named=False,
        lasts_s=10.0,
        refusal=_NEEDS_LAB,
    ),
    NamedFault(
        "lossy_link",
        "a host's cable loses a part of the packets",
        "link",
        "slow",
        LINK,
        needs=LAB,
        must_be_named=False,
        lasts_s=10.0,
        refusal=_NEEDS_LAB,
    ),
)

_DISKS = (
    _on_storage("fill_run_directory", "no room where the run's record lies", 10.0, True),
    _on_storage("fill_checkpoints", "no room where checkpoints lie", 10.0, True),
    _on_storage("freeze_logs_5", "the logs' storage answers nobody, 5 s", 5.0, False),
    _on_storage("freeze_logs_15", "the logs' storage answers nobody, 15 s", 15.0, False),
    _on_storage("freeze_logs_60", "the logs' storage answers nobody, 60 s", 60.0, False),
    _on_storage("freeze_checkpoints_5", "the checkpoints' storage hangs, 5 s", 5.0, False),
    _on_storage("freeze_checkpoints_15", "the checkpoints' storage hangs, 15 s", 15.0, False),
    _on_storage("freeze_checkpoints_60", "the checkpoints' storage hangs, 60 s", 60.0, False),
    _on_storage("freeze_all_5", "the whole run directory hangs, 5 s", 5.0, False),
    _on_storage("freeze_all_15", "the whole run directory hangs, 15 s", 15.0, False),
    _on_storage("freeze_all_60", "the whole run directory hangs, 60 s", 60.0, False),
    _on_storage("freeze_on_one_node", "the run directory hangs on one node alone", 15.0, False),
    NamedFault(
        "tear_write",
        "the newest checkpoint loses the end of a file, and a worker dies",
        "storage",
        "crash",
        WORKER,
        needs=LAB,
        refusal=_NEEDS_LAB,
    ),
    NamedFault(
        "flip_on_disk",
        "one bit of a file of the newest checkpoint changes, and a worker dies",
        "storage",
        "crash",
        WORKER,
        needs=LAB,
        refusal=_NEEDS_LAB,
    ),
)

_SINGLE = (*_WORKERS, *_AGENTS, *_MACHINES, *_LINKS, *_DISKS)
_BY_NAME = {fault.name: fault for fault in _SINGLE}

_PAIRED = (
    ("kill", "kill"),
    ("kill", "stop"),
    ("stop", "kill"),
    ("kill", "kill_agent"),
    ("kill_agent", "kill"),
    ("kill_fork_server", "kill"),
    ("raise", "segfault"),
)

FAULTS: tuple[NamedFault, ...] = (
    *_SINGLE,
    *(_pair(_BY_NAME[first], _BY_NAME[second]) for first, second in _PAIRED),
)
"""The table."""


def known_fault(name: str) -> NamedFault | None:
    """The row of that name; None where there is none."""
    return next((fault for fault in FAULTS if fault.name == name), None)


def has_worker(name: str) -> bool:
    """Whether a fault is done to a worker, or to what serves one: it has to be said to whom. The
    controller is nobody's."""
    fault = known_fault(name)
    return fault is None or fault.target != "controller"


def lasts(name: str) -> bool:
    """Whether a fault goes on until it is taken back: it may be said for how long."""
    fault = known_fault(name)
    return fault is not None and (fault.lasts_s is not None or fault.kind == "hang")


def orderable() -> tuple[NamedFault, ...]:
    """What a job file may order."""
    return tuple(fault for fault in FAULTS if not fault.refusal)


def continuing(is_audited: bool = False) -> tuple[NamedFault, ...]:
    """Rows after which a run goes on to the bits of an undisturbed one; with audits silent ones."""
    return tuple(fault for fault in FAULTS if is_audited or not fault.is_silent)
