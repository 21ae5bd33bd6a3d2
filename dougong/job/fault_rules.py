"""What `fault`, `checkpoint` and `drill` may say together: rules, whose breach is an error, and
doubts, which are told and stop nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dougong.job.drills.drill import listed
from dougong.job.drills.vocabulary import known_fault
from dougong.job.fault.quarantine import QuarantineKeys
from dougong.job.rule import Breach, Rule, num_workers, worker_names
from dougong.job.schema import Fault, Job

_LATE = ("warm_up_s", "build_s", "evaluation_s")
"""Limits in place of `hang_s` that are never the shorter ones."""


def _kept_snapshots(job: Job) -> Iterator[Breach]:
    kept, path = job.fault.snapshots, ("fault", "snapshots")
    if kept.every > 0:
        return
    advice = "raise fault.snapshots.every to 1 or more, or remove it"
    if kept.replicas != "auto" and kept.replicas > 0:
        text = f"{kept.replicas} copies of snapshots that fault.snapshots.every: 0 never makes"
        yield Breach((*path, "replicas"), f"{text}; {advice}")
    if kept.local is not None:
        text = f"a folder for snapshots that fault.snapshots.every: 0 never makes; {advice}"
        yield Breach((*path, "local"), text)


def _local_folder(job: Job) -> Iterator[Breach]:
    local, path = job.fault.snapshots.local, ("fault", "snapshots", "local")
    if local is None:
        return
    if not os.path.isabs(local):
        text = f"{local} is not a whole path, and workers of other nodes begin in other folders"
        yield Breach(path, f"{text}; let it begin with /")
    elif os.path.lexists(local) and not os.path.isdir(local):
        yield Breach(path, f"{local} is no folder; name one, or remove what is there")


def _counted(job: Job) -> Iterator[Breach]:
    fault = job.fault
    for name in fault.per_hour:
        path = ("fault", "per_hour", name)
        if name == "preemption":
            yield Breach(path, "a preemption is never counted; remove it")
        elif fault.actions.of(name) == "fail":
            text = f"fault.actions.{name}: fail ends the run at the first one; remove one of them"
            yield Breach(path, text)


def _used_deadlines(job: Job) -> Iterator[Breach]:
    fault = job.fault
    if fault.deadlines.node_return_s is not None and fault.without_spare == "stop":
        text = "fault.without_spare: stop waits for no node; remove it, or say without_spare: wait"
        yield Breach(("fault", "deadlines", "node_return_s"), text)


def _audited(job: Job) -> Iterator[Breach]:
    if job.fault.audit is not None and not job.is_layout_free:
        text = f"with determinism: {job.determinism} another worker's numbers have other bits"
        yield Breach(("fault", "audit"), f"{text}; use determinism: layout, or remove it")


def _seen_flips(job: Job) -> Iterator[Breach]:
    for index, drill in enumerate(listed(job.drill)):
        fault = known_fault(drill.what)
        if fault is not None and fault.kind == "corruption" and not job.is_deterministic:
            text = f"{drill.what}: with determinism: off nobody compares numbers with their copies"
            yield Breach(("drill", index), f"{text}; use determinism: layout or run, or remove it")


FAULT_RULES = (
    Rule(("fault",), _kept_snapshots),
    Rule(("fault",), _local_folder),
    Rule(("fault",), _counted),
    Rule(("fault",), _used_deadlines),
    Rule(("fault", "determinism"), _audited),
    Rule(("drill", "determinism"), _seen_flips),
)


def doubts(job: Job, is_new: bool = True) -> list[str]:
    """What of a valid job may not be meant, each with its key. `is_new`: for a run that begins, and
    none that is resumed."""
    found = [
        *_snapshot_doubts(job),
        *_limit_doubts(job.fault),
        *_budget_doubts(job),
        *_place_doubts(job),
        *_audit_doubts(job),
        *_drill_doubts(job),
    ]
    if is_new and job.fault.quarantine.lift:
        keys = ", ".join(job.fault.quarantine.lift)
        text = f"{keys}: a run that begins has no device in quarantine; a resume uses it"
        found.append(f"fault.quarantine.lift: {text}")
    return found


def _snapshot_doubts(job: Job) -> Iterator[str]:
    kept, most = job.fault.snapshots, len(worker_names(job.islands)) - 1
    if kept.are_kept and kept.replicas != "auto" and kept.replicas > most:
        there = f"{most} others" if most != 1 else "one other"
        yield (
            f"fault.snapshots.replicas: {kept.replicas} copies, and a worker has {there}: so many "
            "are kept; lower it, or raise islands.*.workers"
        )
    if kept.every > job.steps:
        yield (
            f"fault.snapshots.every: {kept.every}, and the job has {job.steps} steps: none is kept "
            "in memory; lower it"
        )
    if kept.local is not None:
        yield from _folder_doubts(Path(kept.local))
    if not kept.are_kept and not job.checkpoint.every:
        yield (
            "checkpoint.every: 0, with fault.snapshots.every: 0: whatever fails, the run begins "
            "anew; raise one of them"
        )


def _folder_doubts(local: Path) -> Iterator[str]:
    """Only of this machine: each node has a disk of its own."""
    there = local
    while not there.exists():
        there = there.parent
    text = f"fault.snapshots.local: {local}"
    if not os.access(there, os.W_OK | os.X_OK):
        yield f"{text} cannot be written on this machine: snapshots on disk are left out there"
    elif there != local and there == Path(local.anchor):
        yield f"{text} is not there on this machine: it would be made, on the disk of {there}"


def _limit_doubts(fault: Fault) -> Iterator[str]:
    limits, path = fault.limits(), "fault.deadlines"
    hang_s, silence_s = limits.hang_s, limits.agent_silence_s
    if hang_s >= limits.message_s:
        yield (
            f"{path}.hang_s: {hang_s:g} s, and whoever waits for a peer gives up after "
            f"{limits.message_s:g} s ({path}.message_s): a hang then ends by an error of a worker "
            "that only waited; lower it, or raise message_s"
        )
    if hang_s < limits.suspect_s:  # given up before anybody is told of it
        yield (
            f"{path}.hang_s: {hang_s:g} s: healthy workers stand still for a second or two now and "
            f"then, and are ended then; raise it to {limits.suspect_s:g} or more"
        )
    if silence_s > limits.controller_silence_s:
        yield (
            f"{path}.agent_silence_s: {silence_s:g} s, and an agent ends its workers after "
            f"{limits.controller_silence_s:g} s without its controller; lower it"
        )
    for name in _LATE:
        set_s = getattr(fault.deadlines, name)
        if set_s is not None and set_s < hang_s:
            yield (
                f"{path}.{name}: {set_s:g} s, less than {path}.hang_s ({hang_s:g} s), which it is "
                "to lengthen; raise it, or lower hang_s"
            )


def _budget_doubts(job: Job) -> Iterator[str]:
    fault = job.fault
    if fault.max_restarts == 0:
        spares = any(island.spares for island in job.islands)
        idle = ", and no spare takes a place" if spares else ""
        yield f"fault.max_restarts: 0: the first failure ends the run{idle}; 1 or more go on"
    for name, most in fault.per_hour.items():
        if most == 0:
            yield f"fault.per_hour.{name}: 0: the first one ends the run; 1 or more go on"
    skips = Fault.model_fields["max_skips"].default
    if fault.non_finite == "stop" and fault.max_skips != skips:
        yield "fault.max_skips: counts only with fault.non_finite: skip; add that, or remove it"
    after = QuarantineKeys.model_fields["after"].default
    if fault.actions.device != "quarantine" and fault.quarantine.after != after:
        yield (
            f"fault.quarantine.after: fault.actions.device: {fault.actions.device} puts no device "
            "in quarantine; remove one of them"
        )


def _place_doubts(job: Job) -> Iterator[str]:
    """Of who takes a lost agent's place."""
    with_spares = [island.name for island in job.islands if island.spares]
    without = [island.name for island in job.islands if not island.spares]
    if with_spares and without:
        yield (
            f"islands.*.spares: {', '.join(without)} has none: what is lost there waits for a "
            "node, whoever stands by elsewhere; give it spares: 1 if it matters"
        )
    if job.fault.without_spare != "shrink":
        return
    path = "fault.without_spare: shrink"
    for role in ("attention", "experts"):
        if num_workers(job, role) == 1:
            yield (
                f"{path}: {role} has one worker, without which nothing can go on: the run waits "
                "for it; raise islands.*.workers"
            )
    if not job.is_layout_free:
        yield (
            f"{path}: with determinism: {job.determinism} fewer workers give other bits; use "
            "determinism: layout, or without_spare: wait"
        )


def _audit_doubts(job: Job) -> Iterator[str]:
    """Who computes again what another one of his kind has computed, and has no other one."""
    if job.fault.audit is None:
        return
    for role in ("both", "attention", "experts"):
        alone = [island for island in job.islands if island.role == role]
        if sum(island.workers for island in alone) == 1:
            yield (
                f"fault.audit: {job.fault.audit}: {worker_names(alone)[0]} is the only worker of "
                f"role {role}, and computes its own part again: only errors that come by chance "
                "are seen, and none that its device makes each time; raise islands.*.workers"
            )


def _drill_doubts(job: Job) -> Iterator[str]:
    """Of drills that would end the run."""
    actions, counts = job.fault.actions, job.fault.max_restarts
    for index, drill in enumerate(listed(job.drill)):
        fault = known_fault(drill.what)
        if fault is None or not fault.must_be_named or fault.target == "controller":
            continue
        path = f"drill.{index}: {drill.what}"
        if actions.of(fault.kind) == "fail":
            yield f"{path} ends the run: fault.actions.{fault.kind} is fail"
        elif counts == 0 and fault.kind != "preemption":
            yield f"{path} ends the run: fault.max_restarts is 0"
