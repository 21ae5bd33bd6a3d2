"""What a node is, found without opening a device and in bounded time. Imports no torch."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil

from dougong.accelerators.base import Accelerator
from dougong.accelerators.registry import get_accelerator
from dougong.addresses import Ports
from dougong.control.bounded import answer_within
from dougong.control.environment import arithmetic_variables, ray_wants_token, refused_variables
from dougong.control.messages import DevicesRead
from dougong.control.ports import NoPortError, listen
from dougong.control.processes import interface_of
from dougong.deadlines import Deadlines
from dougong.doctor.facts import (
    FolderFacts,
    KindFacts,
    LookQuestion,
    NetworkFacts,
    NodeFacts,
)
from dougong.errors import DeviceError, LaunchError
from dougong.launcher.agent.device_line import DeviceLine
from dougong.launcher.agent.facts import count_devices, installed_versions
from dougong.launcher.agent.here.code import code_of
from dougong.launcher.agent.here.limits import find_limits
from dougong.launcher.agent.paths import source_address, workers_address
from dougong.records.files import nearest_place, no_folder_words, refusal_to_write
from dougong.records.shared_folder import answer_proof, mount_of

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SHARED_MEMORY = "/dev/shm"
_LOOPBACK = "127.0.0.1"

_Found = TypeVar("_Found")


def look(question: LookQuestion) -> NodeFacts:
    """Everything that is to be known of this machine without measuring it."""
    kinds = sorted({post.accelerator for post in question.posts})
    return NodeFacts(
        host=socket.gethostname(),
        machine=machine_here(),
        versions=installed_versions(),
        code=code_of(question.model_types, kinds),
        limits=find_limits(),
        devices=tuple(look_at_devices(kind, question.deadlines) for kind in kinds),
        network=look_at_network(question.towards, question.ports),
        folder=_look_at_folder(question),
        absent=_absent(question.files, question.deadlines),
        shared_memory_free=_shared_memory_free(),
        wants_token=ray_wants_token(),
    )


def machine_here() -> str:
    """The same for all nodes on this machine, containers and namespaces included."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def look_at_devices(kind: str, deadlines: Deadlines) -> KindFacts:
    """Devices of a kind, and what they say of their health."""
    try:
        return _look_at(get_accelerator(kind), deadlines)
    except DeviceError as error:
        return KindFacts(kind, 0, "", problem=str(error))


def _look_at(accelerator: Accelerator, deadlines: Deadlines) -> KindFacts:
    told = _health_of(accelerator, deadlines)
    found = refused_variables(accelerator.refused)
    refused = [f"{one.variable}={one.value}: {one.reason}" for one in found]
    agreed = arithmetic_variables(accelerator.agreed_variables)
    return KindFacts(
        accelerator=accelerator.name,
        count=count_devices(accelerator),
        name=accelerator.describe().get("name", ""),
        missing=accelerator.missing(),
        readings=told.readings,
        problem=told.problem,
        refused=tuple(refused),
        agreed=agreed if accelerator.agreed_variables else {},
    )


def _health_of(accelerator: Accelerator, deadlines: Deadlines) -> DevicesRead:
    """One reading, by a process that may hang in its driver."""
    if not (accelerator.tells_health and count_devices(accelerator)):
        return DevicesRead()
    told: list[DevicesRead] = []
    with selectors.DefaultSelector() as selector:
        line = DeviceLine(accelerator.name, {}, selector, told.append, deadlines)
        with contextlib.closing(line):
            _hear(line, selector, told, deadlines)
    if told:
        return told[0]
    return DevicesRead(problem=f"nothing from its driver for {deadlines.telemetry_start_s:g} s")


def _hear(
    line: DeviceLine,
    selector: selectors.BaseSelector,
    told: list[DevicesRead],
    deadlines: Deadlines,
) -> None:
    """Until it has said something, or for as long as a first reading may take."""
    until = time.monotonic() + deadlines.telemetry_start_s
    while not told and time.monotonic() < until:
        line.tick(time.monotonic())
        for key, _ in selector.select(deadlines.tick_every_s):
            key.data()


def look_at_network(towards: str | None, ports: Ports | None) -> NetworkFacts:
    """The interface of this machine's workers on their way to that host (None: to itself), and
    whether they can listen there."""
    try:
        local = _LOOPBACK if towards is None else source_address(towards)
        address = workers_address(local)
    except LaunchError as error:
        return NetworkFacts(problem=str(error))
    interface = interface_of(address) or ""
    states = psutil.net_if_stats()
    state = states.get(interface)
    others = sorted(name for name, other in states.items() if other.isup and name != interface)
    num_free, ports_problem = _try_ports(address, ports)
    return NetworkFacts(
        address=address,
        interface=interface,
        mtu=None if state is None else state.mtu,
        mbits_s=state.speed or None if state is not None else None,
        others=tuple(others),
        num_free=num_free,
        ports_problem=ports_problem,
    )


def _try_ports(address: str, ports: Ports | None) -> tuple[int | None, str]:
    """How many of the ports are free (None: the system chooses), and why none is."""
    try:
        listen(address, ports).close()
    except NoPortError as error:
        return (None if ports is None else 0), str(error)
    if ports is None:
        return None, ""
    return sum(_is_free(address, port) for port in ports.beginning_at(0)), ""


def _is_free(address: str, port: int) -> bool:
    try:
        listen(address, Ports(port, port)).close()
    except NoPortError:
        return False
    return True


def _look_at_folder(question: LookQuestion) -> FolderFacts:
    folder, deadlines = question.folder, question.deadlines
    trouble = None
    if question.proof is not None:
        trouble = answer_proof(question.proof, question.name, deadlines)
    try:
        found = answer_within(deadlines.shared_file_s, lambda: look_at_storage(folder))
    except futures.TimeoutError:
        text = f"the file system has not answered within {deadlines.words('shared_file_s')}"
        return FolderFacts(folder, trouble=trouble, problem=text)
    except OSError as error:
        text = f"{folder}: {error.strerror}"
        return FolderFacts(folder, trouble=trouble, problem=text, number=error.errno)
    return replace(found, trouble=trouble)


def look_at_storage(folder: str) -> FolderFacts:
    """How much room there is, and whether anything can be written there. OSError where nobody can
    say how much. May hang where a mount is dead."""
    place = nearest_place(Path(folder))
    if not place.is_dir():
        return FolderFacts(str(place), problem=no_folder_words(place), number=errno.ENOTDIR)
    state = os.statvfs(place)
    refusal = refusal_to_write(place)
    return FolderFacts(
        place=str(place),
        free_bytes=state.f_frsize * state.f_bavail,
        total_bytes=state.f_frsize * state.f_blocks,
        free_inodes=state.f_favail if state.f_files else None,
        mount=mount_of(str(place)),
        problem="" if refusal is None else _refusal_words(place, refusal),
        number=None if refusal is None else refusal.errno,
    )


def _refusal_words(place: Path, refusal: OSError) -> str:
    is_denied = refusal.errno in (errno.EACCES, errno.EPERM)
    who = f" by user {os.geteuid()}" if is_denied else ""
    return f"{place} cannot be written{who}: {refusal.strerror}"


def _absent(files: Sequence[str], deadlines: Deadlines) -> tuple[str, ...]:
    def missing() -> tuple[str, ...]:
        return tuple(name for name in files if not os.path.exists(name))

    return _or(missing, tuple(files), deadlines)


def _or(ask: Callable[[], _Found], otherwise: _Found, deadlines: Deadlines) -> _Found:
    """What it finds, the other thing where it does not answer."""
    with contextlib.suppress(futures.TimeoutError):
        return answer_within(deadlines.shared_file_s, ask)
    return otherwise


def _shared_memory_free() -> int | None:
    try:
        state = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return None
    return state.f_frsize * state.f_bavail
