"""Rules that tie islands to what they compute: roles, lanes, experts, schedules, drills."""

from __future__ import annotations

from collections.abc import Iterator

from dougong.accelerators.registry import get_accelerator
from dougong.addresses import PER_AGENT, PER_WORKER, num_needed, read_ports
from dougong.errors import DeviceError
from dougong.job.drills.drill import listed
from dougong.job.drills.vocabulary import has_worker, lasts, orderable
from dougong.job.rule import (
    EXPERT_COUNT_KEYS,
    Breach,
    Rule,
    counts,
    model_config,
    num_workers,
    worker_names,
)
from dougong.job.schema import Island, Job

_MOST_NAMES = 8


def _island_names(job: Job) -> Iterator[Breach]:
    first: dict[str, int] = {}
    for index, island in enumerate(job.islands):
        if island.name in first:
            other = f"islands.{first[island.name]}"
            text = f"'{island.name}' is also the name of {other}; give each island its own name"
            yield Breach(("islands", index, "name"), text)
        first.setdefault(island.name, index)


def _roles(job: Job) -> Iterator[Breach]:
    for role in ("attention", "experts"):
        if not num_workers(job, role):
            advice = f"give one of them `role: {role}` or `role: both`"
            yield Breach(("islands",), f"no island computes {role}; {advice}")


def _lanes(job: Job) -> Iterator[Breach]:
    workers = num_workers(job, "attention")
    if job.batch.lanes < workers:
        text = (
            f"{job.batch.lanes} lanes for {workers} attention workers, and each needs one; raise "
            f"batch.lanes to {workers} or more, or lower islands.*.workers"
        )
        yield Breach(("batch", "lanes"), text)


def _experts(job: Job) -> Iterator[Breach]:
    workers = num_workers(job, "experts")
    for key, count in counts(model_config(job), EXPERT_COUNT_KEYS):
        if count < workers:
            text = (
                f"{count} experts for {workers} experts workers, and each needs one; raise "
                f"model.config.{key} to {workers} or more, or lower islands.*.workers"
            )
            yield Breach(("model", "config", key), text)


def _offload(job: Job) -> Iterator[Breach]:
    roles = {island.role for island in job.islands}
    if job.offload not in ("none", 0) and not {"attention", "experts"} <= roles:
        text = (
            f"{job.offload}, but nobody computes attention apart from experts; give islands "
            "`role: attention` and `role: experts`, or remove it"
        )
        yield Breach(("offload",), text)
    elif job.offload == "auto":
        for index, island in enumerate(job.islands):
            yield from _auto_offload(index, island)


def _auto_offload(index: int, island: Island) -> Iterator[Breach]:
    if island.speed is None and island.emulate is None:
        text = (
            "offload: auto weighs attention against experts and needs it; paste what "
            "`dougong calibrate` says, or give offload a number"
        )
        yield Breach(("islands", index, "speed"), text)
    if island.role == "both":
        text = "offload: auto needs attention and experts apart everywhere"
        yield Breach(("islands", index, "role"), text)


def _offload_leaves_enough(job: Job) -> Iterator[Breach]:
    workers, kept = num_workers(job, "experts"), job.offload
    if not isinstance(kept, int) or kept == 0:
        return
    for key, count in counts(model_config(job), EXPERT_COUNT_KEYS):
        most = max(0, count - workers)
        if kept > count - workers:
            text = (
                f"{kept} of {count} experts (model.config.{key}) would leave less than one for "
                f"each of {workers} experts workers; lower it to {most}"
            )
            yield Breach(("offload",), text)


def _pipeline(job: Job) -> Iterator[Breach]:
    if job.pipeline == "colocated" and any(island.role != "both" for island in job.islands):
        text = (
            "colocated is for workers that compute attention and experts, and not all are "
            "`role: both`; use zebra, af_pipe, serial or auto"
        )
        yield Breach(("pipeline",), text)


def _shard(job: Job) -> Iterator[Breach]:
    if job.dense == "copy" or job.batch.microbatches == 1 or job.pipeline in ("auto", "zebra"):
        return
    text = (
        f"shard, but pipeline: {job.pipeline} goes through the layers again for each of "
        f"{job.batch.microbatches} micro-batches, so that no layer's gradients are complete before "
        "the last one; set pipeline: zebra (or auto), or dense: copy"
    )
    yield Breach(("dense",), text)


def _one_clock(job: Job) -> Iterator[Breach]:
    """Emulated and real times in one run would mean nothing."""
    if all(island.emulate is None for island in job.islands):
        return
    for index, island in enumerate(job.islands):
        if island.emulate is None:
            text = (
                f"{island.name}: the other islands are emulated; times would be of two kinds; give "
                "this one `emulate` too, or none"
            )
            yield Breach(("islands", index), text)
        elif not _may_share_machine(island):
            text = (
                f"only cpu workers pretend, and these are {island.accelerator}; remove it, or use "
                "accelerator: cpu"
            )
            yield Breach(("islands", index, "emulate"), text)


def _shared_devices(job: Job) -> Iterator[Breach]:
    for index, island in enumerate(job.islands):
        if not island.shares_device:
            continue
        if _shares_machine(island):
            text = (
                f"workers of {island.accelerator} share their machine, which is no device of its "
                "own"
            )
            remedy = f"add -o islands.{island.name}.devices=own"
            path = ("islands", index, "devices")
            yield Breach(path, f"{text}; remove it", on_resume=f"{text}; {remedy}")
        elif island.spares:
            text = (
                f"{island.name}: a spare holds devices of its own, and these workers share one; "
                "set spares: 0, or devices: own"
            )
            yield Breach(("islands", index, "spares"), text)


def _may_share_machine(island: Island) -> bool:
    return _shares_machine(island) is not False


def _shares_machine(island: Island) -> bool | None:
    """None for a package that does not load: told where the job is looked at as a whole."""
    try:
        return get_accelerator(island.accelerator).shares_machine
    except DeviceError:
        return None


def _drill_steps(job: Job) -> Iterator[Breach]:
    for index, drill in enumerate(listed(job.drill)):
        if drill.at_step is not None and drill.at_step > job.steps:
            text = (
                f"step {drill.at_step} never begins in a job of {job.steps} steps; lower it, or "
                "raise steps"
            )
            yield Breach(("drill", index, "at_step"), text)


def _drill_workers(job: Job) -> Iterator[Breach]:
    names = worker_names(job.islands)
    more = ", ..." if len(names) > _MOST_NAMES else ""
    known = ", ".join(names[:_MOST_NAMES]) + more
    for index, drill in enumerate(listed(job.drill)):
        if drill.worker and drill.worker not in names:
            text = f"no worker is called '{drill.worker}'; name one of {known}, or remove the drill"
            yield Breach(("drill", index, "kill" if drill.kill else "on"), text)


def _drills_are_whole(job: Job) -> Iterator[Breach]:
    for index, drill in enumerate(listed(job.drill)):
        at = ("drill", index)
        if (drill.at_step is None) == (drill.after_s is None):
            yield Breach(at, "say when, by one of `at_step: 30` and `after_s: 20`")
        if drill.kill is not None and (drill.fault is not None or drill.on is not None):
            text = "`kill` is short for `fault: kill` and `on`; keep it alone, or those two"
            yield Breach((*at, "kill"), text)
        elif drill.fault is not None and not has_worker(drill.fault):
            if drill.on is not None:
                yield Breach((*at, "on"), f"{drill.fault} happens to no worker; remove `on`")
        elif drill.kill is None and (drill.fault is None or drill.on is None):
            text = "say what happens and to whom: `kill: east/1`, or `fault: stop` and `on: east/1`"
            yield Breach(at, text)


def _drills_last(job: Job) -> Iterator[Breach]:
    for index, drill in enumerate(listed(job.drill)):
        if drill.for_s is not None and not lasts(drill.what):
            text = f"{drill.what} does not last; remove it, or choose one that does: {_lasting()}"
            yield Breach(("drill", index, "for_s"), text)


def _lasting() -> str:
    return ", ".join(fault.name for fault in orderable() if lasts(fault.name))


def _drills_once(job: Job) -> Iterator[Breach]:
    seen: set[tuple[object, ...]] = set()
    for index, drill in enumerate(listed(job.drill)):
        key = (drill.at_step, drill.after_s, drill.what, drill.worker)
        if key in seen:
            whom = f" on {drill.worker}" if drill.worker else ""
            text = f"{drill.what}{whom} is ordered for then already; remove one"
            yield Breach(("drill", index), text)
        seen.add(key)


def _ports(job: Job) -> Iterator[Breach]:
    """Only what is certain before nodes are known: there is a worker somewhere."""
    ports, needed = read_ports(job.ports), num_needed(workers=1, agents=1)
    if ports is not None and len(ports) < needed:
        text = (
            f"{len(ports)} ports, and a node with one worker needs {needed}: {PER_WORKER} for each "
            f"worker there, {PER_AGENT} for each island; widen the range"
        )
        yield Breach(("ports",), text)


LAYOUT_RULES = (
    Rule(("model", "islands"), _experts),
    Rule(("islands", "offload"), _offload),
    Rule(("islands", "pipeline"), _pipeline),
    Rule(("dense", "pipeline", "batch"), _shard),
    Rule(("islands",), _one_clock),
    Rule(("islands",), _shared_devices),
    Rule(("model", "islands", "offload"), _offload_leaves_enough),
    Rule(("batch", "islands"), _lanes),
    Rule(("islands",), _island_names),
    Rule(("islands",), _roles),
    Rule(("drill", "steps"), _drill_steps),
    Rule(("drill", "islands"), _drill_workers),
    Rule(("drill",), _drills_once),
    Rule(("drill",), _drills_are_whole),
    Rule(("drill",), _drills_last),
    Rule(("ports",), _ports),
)
