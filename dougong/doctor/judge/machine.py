"""What each node is by itself: there, with the right time, room, limits and sound devices. Pure."""

from __future__ import annotations

import errno
import statistics
from collections.abc import Iterator, Mapping, Sequence

from dougong.control.handshake import AgentFacts, FolderTrouble
from dougong.deadlines import DEADLINES
from dougong.doctor.ask.demand import DoctorRequest
from dougong.doctor.ask.observations import Observations
from dougong.doctor.facts import FolderFacts, KindFacts, NodeFacts, Post
from dougong.doctor.majority import LEAST_NODES, judge_kinds
from dougong.doctor.record import DoctorCheck, Symptom, check_of, not_run
from dougong.fault.devices import unusable
from dougong.launcher.agent.remarks import (
    JoinedAgent,
    locked_memory_words,
    open_files_words,
    processes_words,
    shared_memory_words,
)
from dougong.planner.agreement import trouble_words, what_helps
from dougong.planner.placement import AgentSpec
from dougong.ui.formatting import duration, plural, size

ALONE = "there is one machine: nobody to compare it with"
LEAST_ROOM = 1 << 30
"""Bytes that a run's record and a small checkpoint may take."""
_LEAST_SHARED = 64 << 20
_LEAST_INODES = 1000


def check_nodes(seen: Observations) -> DoctorCheck:
    """Whether all nodes answer, to everything, and the job finds room on them."""
    symptoms = []
    for node, why in seen.silent.items():
        symptoms.append(
            Symptom(
                words=f"{seen.title(node)} is not examined: {why}",
                remedy="mend it or take it out of the cluster, then examine again",
                nodes=(seen.title(node),),
            )
        )
    for node, what, why in seen.unmeasured:
        symptoms.append(
            Symptom(
                words=f"{seen.title(node)} has not told ({what}): {why}",
                remedy="look what holds it up there: its load, its file systems, its drivers",
                nodes=(seen.title(node),),
            )
        )
    if seen.demand.problem:
        remedy = "start what is missing, or change `islands` of the job"
        symptoms.append(Symptom(words=seen.demand.problem, remedy=remedy))
    evidence = []
    for node in seen.facts:
        posts = ", ".join(_post_words(post) for post in seen.demand.posts[node])
        evidence.append(f"{seen.title(node)}: {posts or 'nothing of this job'}")
    return check_of("nodes", tuple(symptoms), tuple(evidence))


def _post_words(post: Post) -> str:
    workers = plural(post.num_workers, "worker")
    return workers if post.name == post.accelerator else f"{workers} of {post.name}"


def check_token(seen: Observations) -> DoctorCheck:
    """Whether whoever joins the cluster has to prove a token."""
    if seen.is_alone and seen.place.towards is None:
        return not_run("token", "a Ray of a run's own has a token of its own")
    without = [seen.title(node) for node, facts in seen.facts.items() if not facts.wants_token]
    remarks = []
    if without:
        remarks.append(
            f"Ray on {', '.join(without)} was started without RAY_AUTH_MODE=token: whoever reaches "
            "the cluster's ports runs programs there; start it with a token (docs/launch.md)"
        )
    with_token = len(seen.facts) - len(without)
    evidence = (f"{with_token} of {plural(len(seen.facts), 'node')} ask for a token",)
    return check_of("token", (), evidence, tuple(remarks))


def check_clock(seen: Observations) -> DoctorCheck:
    """Clocks against the median of all, as far as a question's way leaves no doubt."""
    ahead = {seen.title(node): clock.ahead_s for node, clock in seen.clocks.items()}
    if len(ahead) < 2:
        return not_run("clock", ALONE)
    symptoms = _on_two_clocks(ahead) if len(ahead) < LEAST_NODES else _on_clocks(ahead)
    evidence = []
    for node, clock in seen.clocks.items():
        ahead_ms, doubt_ms = 1e3 * clock.ahead_s, 1e3 * clock.doubt_s
        words = f"{ahead_ms:+.1f} ms against this machine, give or take {doubt_ms:.1f} ms"
        evidence.append(f"{seen.title(node)}: {words}")
    return check_of("clock", tuple(symptoms), tuple(evidence))


_SET_CLOCK = "set its clock over the network (`chronyc makestep`, `timedatectl set-ntp true`)"


def _on_two_clocks(ahead: Mapping[str, float]) -> Iterator[Symptom]:
    if max(ahead.values()) - min(ahead.values()) > DEADLINES.clocks_differ_s:
        each = ", ".join(f"{name} is {_side(value)} this machine" for name, value in ahead.items())
        words = f"the clocks differ: {each}; which is right cannot be said"
        yield Symptom(words=words, remedy=_SET_CLOCK.replace("its clock", "both clocks"))


def _on_clocks(ahead: Mapping[str, float]) -> Iterator[Symptom]:
    middle = statistics.median(ahead.values())
    for name, value in ahead.items():
        if abs(value - middle) > DEADLINES.clocks_differ_s:
            words = f"the clock of {name} is {_side(value - middle)} the others'"
            yield Symptom(words=words, remedy=_SET_CLOCK, nodes=(name,))


def _side(ahead_s: float) -> str:
    return f"{duration(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'}"


def check_shared(seen: Observations) -> DoctorCheck:
    """Whether what this machine writes where runs lie is seen by all, and the other way round."""
    if seen.folder_problem:
        words = f"what is shared could not be tried: {seen.folder_problem}"
        return check_of("shared folder", (Symptom(words=words, remedy=_NEW_PLACE),))
    if seen.is_alone:
        return not_run("shared folder", ALONE)
    troubled = {}
    for node, facts in seen.facts.items():
        if facts.folder.trouble is not None:
            troubled[node] = facts.folder.trouble
    others = [node for node in seen.facts if seen.nodes[node].address != seen.place.towards]
    seen_by_others = [node for node in others if node not in troubled]
    symptoms = [_on_trouble(seen, node, why) for node, why in troubled.items()]
    if troubled and not seen_by_others:
        # It is seen on this machine alone: whose it is that differs cannot be said.
        symptoms = [symptom.model_copy(update={"nodes": ()}) for symptom in symptoms]
    evidence = []
    for node, facts in seen.facts.items():
        found = "another one" if node in troubled else "the same"
        evidence.append(f"{seen.title(node)}: {found} at {facts.folder.place} {facts.folder.mount}")
    return check_of("shared folder", tuple(symptoms), tuple(evidence))


_NEW_PLACE = "choose a place that all nodes share by --run-dir, or mend this one"


def _on_trouble(seen: Observations, node: str, trouble: FolderTrouble) -> Symptom:
    words = f"{trouble.folder} is not to be seen on {seen.title(node)}"
    remedy = "mount it there"
    if trouble.fault != "absent":
        words, _, remedy = trouble_words(seen.title(node), trouble).partition("; ")
    return Symptom(words=words, remedy=remedy or _NEW_PLACE, nodes=(seen.title(node),))


def check_disk(seen: Observations) -> DoctorCheck:
    """Whether runs can be written where they are to lie, and room, for the job's checkpoints where
    their size is known."""
    symptoms: list[Symptom] = []
    evidence = []
    for node, facts in seen.facts.items():
        name, folder = seen.title(node), facts.folder
        for text, number in _on_folder(folder, seen.request):
            remedy = f"{what_helps(number)}, or choose another place by --run-dir"
            symptoms.append(Symptom(words=f"{name}: {text}", remedy=remedy, nodes=(name,)))
        if folder.free_bytes is not None:
            evidence.append(f"{name}: {folder.place}: {_room_words(folder)}")
    return check_of("disk", tuple(symptoms), tuple(evidence))


def _on_folder(folder: FolderFacts, request: DoctorRequest) -> Iterator[tuple[str, int | None]]:
    """What is wrong with a folder, and the system's number for it."""
    small = [] if folder.free_bytes is None else list(_on_room(folder, request))
    yield from ((text, errno.ENOSPC) for text in small)
    is_told = bool(small) and folder.number in (errno.ENOSPC, errno.EDQUOT)
    if folder.problem and not is_told:
        yield folder.problem, folder.number


def _room_words(folder: FolderFacts) -> str:
    return f"{size(folder.free_bytes or 0)} free of {size(folder.total_bytes or 0)}"


def _on_room(folder: FolderFacts, request: DoctorRequest) -> Iterator[str]:
    """What is too little of a folder."""
    what, least = "a run needs", LEAST_ROOM
    if request.room_bytes > LEAST_ROOM:
        what, least = "the checkpoints that it keeps, and the next one, take", request.room_bytes
    if (folder.free_bytes or 0) < least:
        yield f"{folder.place} has {_room_words(folder)}, and {what} {size(least)}"
    if folder.free_inodes is not None and folder.free_inodes < _LEAST_INODES:
        yield f"{folder.place} takes {folder.free_inodes} more files"


def check_files(seen: Observations) -> DoctorCheck:
    """The job's files and folders on every node that has work."""
    files = seen.request.files
    if not files:
        return not_run(
            "files", "the job names no files of this machine" if seen.request.job else NO_JOB
        )
    symptoms = []
    for node, facts in seen.facts.items():
        if facts.absent and seen.demand.posts[node]:
            name = seen.title(node)
            words = f"{name} does not have {', '.join(facts.absent)}"
            remedy = "put them there under the same path, or on storage that all nodes share"
            symptoms.append(Symptom(words=words, remedy=remedy, nodes=(name,)))
    return check_of("files", tuple(symptoms), files)


NO_JOB = "no job was given"


def check_shared_memory(seen: Observations) -> DoctorCheck:
    """`/dev/shm`, through which devices of a machine exchange."""
    symptoms = []
    evidence = []
    for node, facts in seen.facts.items():
        name, total = seen.title(node), facts.limits.shared_memory_bytes
        if total is None or facts.shared_memory_free is None:
            evidence.append(f"{name}: has no /dev/shm")
            continue
        free = facts.shared_memory_free
        evidence.append(f"{name}: {size(free)} free of {size(total)}")
        texts = list(shared_memory_words(name, agents_of(seen, node), facts.limits))
        symptoms += [_symptom(text, name) for text in texts]
        if free < _LEAST_SHARED and not texts:
            words = f"/dev/shm of {name} has {size(free)} left of {size(total)}"
            remedy = f"delete what lies there; Ray and libraries need {size(_LEAST_SHARED)}"
            symptoms.append(Symptom(words=words, remedy=remedy, nodes=(name,)))
    return check_of("/dev/shm", tuple(symptoms), tuple(evidence))


def check_limits(seen: Observations) -> DoctorCheck:
    """Open files, processes, locked memory."""
    symptoms = []
    remarks: list[str] = []
    evidence = []
    num_workers = max(seen.demand.num_workers, len(seen.facts))
    for node, facts in seen.facts.items():
        name, limits, there = seen.title(node), facts.limits, agents_of(seen, node)
        texts = [
            *open_files_words(name, num_workers, limits),
            *processes_words(name, there, limits),
        ]
        symptoms += [_symptom(text, name) for text in texts]
        remarks += locked_memory_words(name, there, len(seen.facts), limits)
        locked = (
            "no limit" if limits.locked_memory_bytes is None else size(limits.locked_memory_bytes)
        )
        evidence.append(
            f"{name}: {_or_none(limits.open_files)} open files, {_or_none(limits.processes)} "
            f"processes, {locked} of locked memory"
        )
    return check_of("limits", tuple(symptoms), tuple(evidence), tuple(remarks))


def _or_none(number: int | None) -> str:
    return "any number of" if number is None else str(number)


def _symptom(text: str, name: str) -> Symptom:
    """A remark of a run's start, whose remedy stands behind its colon."""
    words, _, remedy = text.partition(": ")
    return Symptom(words=words, remedy=remedy, nodes=(name,))


def agents_of(seen: Observations, node: str) -> list[JoinedAgent]:
    """As a run would have them there."""
    facts, found = seen.facts[node], []
    for post in seen.demand.posts[node]:
        spec = AgentSpec(
            post.name, post.name, "both", post.accelerator, post.threads, 0, post.num_workers
        )
        said = AgentFacts(
            agent=post.name,
            island=post.name,
            node=seen.title(node),
            pid=0,
            accelerator=post.accelerator,
            devices=None,
            versions=facts.versions,
            environment={},
            limits=facts.limits,
        )
        found.append(JoinedAgent(spec, said))
    return found


def check_devices(seen: Observations) -> DoctorCheck:
    """What devices and their drivers say of themselves, and whether like nodes have as many."""
    symptoms: list[Symptom] = []
    remarks: list[str] = []
    evidence = []
    for node, facts in seen.facts.items():
        name = seen.title(node)
        for devices in facts.devices:
            symptoms += _on_devices(name, devices)
            remarks += _remarks_on(name, devices)
            count = "" if devices.count is None else f"{devices.count} x "
            evidence.append(f"{name}: {devices.accelerator}: {count}{devices.name or 'no name'}")
        symptoms += _on_missing(name, facts, seen.demand.posts[node])
    symptoms += _on_counts(seen)
    return check_of("devices", tuple(symptoms), tuple(evidence), tuple(remarks))


def _on_devices(name: str, devices: KindFacts) -> Iterator[Symptom]:
    kind = devices.accelerator
    if devices.problem:
        words = f"{kind} of {name}: nobody can say how its devices are: {devices.problem}"
        yield Symptom(words=words, remedy="look at its driver there", nodes=(name,))
    if devices.missing and devices.count:
        words = f"{kind} of {name}: {devices.missing}"
        yield Symptom(words=words, remedy="install what is missing there", nodes=(name,))
    for text in devices.refused:
        words = f"{kind} of {name}: {text}, which breaks what `determinism` promises"
        remedy = "unset it in the shell that starts the node's Ray, or set determinism: off"
        yield Symptom(words=words, remedy=remedy, nodes=(name,))
    for device, reading in devices.readings.items():
        fault = unusable(reading)
        if fault is not None:
            words = f"{device} of {name} cannot be used: {fault}"
            yield Symptom(words=words, remedy="reset it or have it replaced", nodes=(name,))
        slowed = [reason for reason in reading.throttling if reason != "power"]
        if slowed:
            hot = "" if reading.temperature_c is None else f", {reading.temperature_c} C"
            words = f"{device} of {name} is slowed down ({', '.join(slowed)}{hot})"
            yield Symptom(words=words, remedy="look at its cooling and power", nodes=(name,))


def _remarks_on(name: str, devices: KindFacts) -> Iterator[str]:
    for device, reading in devices.readings.items():
        if reading.awaits_reset:
            yield f"{device} of {name}: rows of its memory are replaced at its next reset"
        for fault in reading.faults:
            if fault.consequence not in ("reset", "give_up"):
                yield f"{device} of {name}: {fault}"


def _on_missing(name: str, facts: NodeFacts, posts: Sequence[Post]) -> Iterator[Symptom]:
    """Devices that Ray, or the job, counts on and that the machine does not show."""
    counts = {devices.accelerator: devices.count or 0 for devices in facts.devices}
    for post in posts:
        there = counts.get(post.accelerator, 0)
        if there < post.num_devices:
            wanted = plural(post.num_devices, f"{post.accelerator} device")
            words = f"{name} is to use {wanted}, and shows {there}"
            remedy = "look at the driver and its tool there, and at what Ray was told of devices"
            yield Symptom(words=words, remedy=remedy, nodes=(name,))


def _on_counts(seen: Observations) -> Iterator[Symptom]:
    """Of nodes with devices of one name."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for node, facts in seen.facts.items():
        for devices in facts.devices:
            if devices.count:
                alike = counts.setdefault((devices.accelerator, devices.name), {})
                alike[seen.title(node)] = devices.count
    for (kind, device), found in counts.items():
        judged = judge_kinds(found)
        for name in judged.named:
            words = f"{name} has {found[name]} {kind} ({device}), the others {judged.usual}"
            remedy = "look whether one has fallen off its bus, or is hidden from Ray there"
            yield Symptom(words=words, remedy=remedy, nodes=(name,))


def check_environment(seen: Observations) -> DoctorCheck:
    """Variables that a native library must find alike on all nodes of an island."""
    alike: dict[tuple[str, str], dict[str, str]] = {}
    for node, facts in seen.facts.items():
        for post in seen.demand.posts[node]:
            for variable, value in _agreed(facts, post.accelerator).items():
                alike.setdefault((post.name, variable), {})[node] = value
    symptoms: list[Symptom] = []
    for (island, variable), found in alike.items():
        symptoms += _on_variable(seen, island, variable, found)
    evidence = [f"{island}: {variable}" for island, variable in alike]
    return check_of("environment", tuple(symptoms), tuple(evidence))


def _agreed(facts: NodeFacts, kind: str) -> dict[str, str]:
    return next((one.agreed for one in facts.devices if one.accelerator == kind), {})


def _on_variable(
    seen: Observations, island: str, variable: str, found: dict[str, str]
) -> Iterator[Symptom]:
    members = [node for node in seen.facts if island in seen.demand.islands_of(node)]
    told = {seen.title(node): found.get(node, "not set") for node in members}
    judged = judge_kinds(told)
    remedy = f"set {variable} alike, or nowhere, in the shells that start the nodes' Ray"
    if judged.disagree:
        each = ", ".join(f"{value} on {name}" for name, value in told.items())
        yield Symptom(words=f"{island}: {variable} is {each}", remedy=remedy)
    for name in judged.named:
        words = f"{island}: {variable} is {told[name]} on {name}, {judged.usual} on the others"
        yield Symptom(words=words, remedy=remedy, nodes=(name,))
