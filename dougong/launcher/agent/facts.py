"""What an agent finds out about its place and tells the controller."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Collection, Mapping, Sequence

from dougong.accelerators.base import Accelerator, visible_keys, without_devices
from dougong.accelerators.registry import get_accelerator
from dougong.control.environment import (
    arithmetic_variables,
    default_variables,
    read_visible_devices,
    refused_variables,
)
from dougong.control.handshake import AgentFacts, FolderTrouble
from dougong.control.processes import memory_bytes
from dougong.control.run_sources import RunSources
from dougong.errors import DeviceError
from dougong.job.schema import Island, Job
from dougong.launcher.agent.here.code import code_of, model_types_of
from dougong.launcher.agent.here.limits import find_limits
from dougong.launcher.agent.settings import AgentSettings
from dougong.planner.agreement import Software
from dougong.records.machine import PACKAGES, package_versions
from dougong.records.shared_folder import answer_proof
from dougong.remarks import Remarks
from dougong.ui.formatting import plural


def describe_agent(
    settings: AgentSettings,
    accelerator: Accelerator,
    environment: Mapping[str, str],
) -> AgentFacts:
    """`environment`: what the accelerator has its workers' environment be; what the user has set of
    what can change bits is told with it."""
    return AgentFacts(
        agent=settings.name,
        island=settings.island,
        node=socket.gethostname(),
        pid=os.getpid(),
        accelerator=settings.accelerator,
        devices=count_devices(accelerator),
        versions=installed_versions(),
        environment={
            **arithmetic_variables(accelerator.arithmetic_variables),
            **environment,
        },
        ray_node=settings.ray_node,
        memory_bytes=memory_of(accelerator),
        code=code_of(settings.model_types, (settings.accelerator,)),
        trouble=_trouble_with(settings),
        limits=find_limits(),
        fence=settings.fence,
        device=accelerator.describe().get("name", ""),
        absent=tuple(name for name in settings.files if not os.path.exists(name)),
    )


def worker_variables(accelerator: Accelerator, threads: int, deterministic: bool) -> dict[str, str]:
    """What workers find in their environment besides this process's own: what their arithmetic
    rests on, and defaults of which the user has said nothing."""
    defaults = default_variables(accelerator.defaults)
    return {**defaults, **accelerator.worker_environment(threads, deterministic)}


def refuse_variables(accelerator: Accelerator) -> None:
    """DeviceError where this process's environment, which its workers inherit, breaks what a
    deterministic job promises."""
    found = refused_variables(accelerator.refused)
    if found:
        words = "; ".join(f"{one.variable}={one.value} is set: {one.reason}" for one in found)
        names = ", ".join(one.variable for one in found)
        raise DeviceError(
            f"{socket.gethostname()}, accelerator {accelerator.name}: {words}, which breaks what "
            f"the job's `determinism` promises; unset {names} in the shell that starts the node's "
            "Ray (or dougong), or set determinism: off"
        )


def variable_remarks(job: Job) -> Remarks:
    """What a run whose workers inherit this process's environment would make of it: variables with
    which it is refused, and those that it leaves to its workers and records, a line each."""
    refused: dict[str, str] = {}
    recorded: dict[str, set[str]] = {}
    agreed: set[str] = set()
    for island in job.islands:
        accelerator, deterministic = get_accelerator(island.accelerator), job.is_deterministic
        for one in refused_variables(accelerator.refused) if deterministic else ():
            refused[one.variable] = (
                f"{one.variable}={one.value} is set here: {one.reason}; a run whose "
                f"{accelerator.name} workers inherit it is refused: unset it in the shell that "
                "starts dougong (or the node's Ray), or set determinism: off"
            )
        found = arithmetic_variables(accelerator.arithmetic_variables)
        agreed |= set(accelerator.agreed_variables)
        # What workers are given stands over what is set here.
        for variable in found.keys() - worker_variables(accelerator, island.threads, deterministic):
            words = f"{variable}={found[variable]}"
            recorded.setdefault(words, set()).add(accelerator.name)
    notes = [
        f"{words} is set here and can change bits of {' and '.join(sorted(kinds))} workers: they "
        f"inherit it, and a run records it{_alike(words, agreed)}"
        for words, kinds in sorted(recorded.items())
        if words.partition("=")[0] not in refused
    ]
    return Remarks(tuple(notes), tuple(refused.values()))


def _alike(words: str, agreed: Collection[str]) -> str:
    is_agreed = words.partition("=")[0] in agreed
    return "; it must be the same on all nodes of an island" if is_agreed else ""


def files_of(job: Job, begins: bool) -> tuple[str, ...]:
    """Files and folders that the job names and that are on this machine: all others must have them
    too. `begins`: whether the run does; its model's folder is not read again later. A glob, or a
    name on the hub, is none of them: workers look there themselves."""
    named: list[str | None] = []
    for _, source in job.data.sources:
        named += [source.text, source.tokens, source.dataset, source.chat]
        named.append(None if source.megatron is None else f"{source.megatron}.bin")
    if begins:
        named += [job.data.tokenizer, job.model.path]
    return tuple(name for name in named if name is not None and os.path.exists(name))


def _trouble_with(settings: AgentSettings) -> FolderTrouble | None:
    if settings.proof is None:
        return None
    return answer_proof(settings.proof, settings.name, settings.deadlines)


def software_here(job: Job, sources: RunSources | None) -> Software:
    """This machine's, as `describe_agent` tells an agent's. `sources`: what the run had read when
    it began."""
    kinds = sorted({island.accelerator for island in job.islands})
    code = code_of(model_types_of(job.model, sources), kinds)
    return Software(socket.gethostname(), installed_versions(), code)


def memory_of(accelerator: Accelerator) -> int | None:
    """Bytes of one device here; of all that this process's group may take, where workers share the
    machine; None: not known."""
    return memory_bytes() if accelerator.shares_machine else accelerator.memory_bytes()


def count_devices(accelerator: Accelerator) -> int | None:
    """How many devices this process may use; None: any number of workers."""
    variable = accelerator.visible_devices_variable
    return accelerator.device_count(read_visible_devices(variable) if variable else None)


def seen_keys(accelerator: Accelerator) -> tuple[str, ...]:
    """The keys of the devices that this process may use, by the number that it knows each by;
    nothing where they have none."""
    variable = accelerator.visible_devices_variable
    visible = read_visible_devices(variable) if variable else None
    return tuple(key for _, key in visible_keys(accelerator.device_keys(), visible))


def left_out(accelerator: Accelerator, avoided: Sequence[str]) -> dict[str, str]:
    """What an agent's workers find in their environment so that they see none of these devices, by
    their keys; nothing where this machine has none of them."""
    variable = accelerator.visible_devices_variable
    if not avoided or variable is None:
        return {}
    keys, visible = accelerator.device_keys(), read_visible_devices(variable)
    seen = {key for _, key in visible_keys(keys, visible)}
    if seen.isdisjoint(avoided):
        return {}
    return {variable: without_devices(keys, visible, avoided)}


def absent_devices(islands: Sequence[Island]) -> Remarks:
    """Of which devices this machine has fewer than an island has workers: a plan is laid all the
    same, since the run may be another machine's."""
    notes = []
    for island in islands:
        accelerator = get_accelerator(island.accelerator)
        found = count_devices(accelerator)
        needed = 1 if island.shares_device else island.workers
        if accelerator.shares_machine or found is None or found >= needed:
            continue
        missing = accelerator.missing()
        text = (
            f"island {island.name} needs {plural(needed, f'{accelerator.name} device')}, "
            f"and this machine has {found}"
        )
        notes.append(f"{text} ({missing})" if missing else text)
    return Remarks(notes=tuple(notes))


def installed_versions() -> dict[str, str]:
    """Versions that must agree over the nodes of a run; nothing is imported to find them."""
    found = package_versions()
    versions = {package: found.get(package, "not installed") for package in PACKAGES}
    return {"python": platform.python_version(), **versions}
