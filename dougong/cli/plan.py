"""`dougong plan`: what a job would run where."""

from __future__ import annotations

import itertools
import shutil
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import typer
from rich.table import Table

from dougong.accelerators.registry import get_accelerator
from dougong.cli.options import JobFile, Overrides
from dougong.cli.tables import plain_table, print_table
from dougong.control.processes import memory_bytes
from dougong.job.fault_rules import doubts
from dougong.job.load import placed
from dougong.job.schema import Island, Job
from dougong.launcher.agent.facts import (
    absent_devices,
    memory_of,
    variable_remarks,
    worker_variables,
)
from dougong.launcher.agent.here.open_files import remarks_on_open_files
from dougong.launcher.agent.remarks import left_out_snapshots
from dougong.models.library.loading import load_transformers
from dougong.parallel.plan import Inventory, Plan, Worker
from dougong.planner.needs.activations import unknown_activations
from dougong.planner.needs.audit_bytes import AuditBytes, audit_bytes
from dougong.planner.needs.holdings import expert_bytes
from dougong.planner.needs.snapshot_bytes import SnapshotBytes, snapshot_bytes
from dougong.planner.needs.terms import WorkerMemory
from dougong.planner.needs.worker_memory import needed_memory
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from dougong.planner.snapshot_room import short_of_room
from dougong.remarks import Remarks
from dougong.tools.job_check import load_whole_job
from dougong.tools.plan_chart import chart_lines, fits
from dougong.tools.plan_memory import (
    kind_lines,
    machine_lines,
    owner_lines,
    total_line,
    unit_lines,
)
from dougong.ui.formatting import plural, ranges, site_experts, size, worker_list

MOST_COLUMNS = 120
LEAST_FOLDED = 5
"""So many workers alike are one row of the table."""
MOST_ROWS = 48
"""Where neighbours that have as much each would be more rows, an island is one."""


def plan(file: JobFile, override: Overrides = None) -> None:
    """Show who would run which lanes and experts, and a step as a chart; use no device.

    Example: dougong plan examples/quickstart.yaml -o islands.east.workers=4
    """
    from dougong.cli.traffic import print_traffic
    from dougong.training.start.preflight import inspect_only, preview

    resolved = load_whole_job(file, override or [])
    load_transformers()
    job = resolved.job
    with placed(resolved):
        model = inspect_only(job)
        data, told = preview(job, model)
    made, left_out = _plan_of(job, model)
    memories = needed_memory(job, model, made)
    width = min(shutil.get_terminal_size().columns, MOST_COLUMNS)
    lines = [  # before anything is said: a device that answers wrongly is refused
        *room_lines(job, model, made, memories, width),
        *environment_lines(job, width),
        f"data: {data}",
        *remark_lines(told + _remarks(job) + left_out),
    ]
    typer.echo(model_line(model))
    print_table(plan_table(made, [memory.state for memory in memories]))
    for line in lines:
        typer.echo(line)
    for line in path_lines(made):
        typer.echo(line)
    print_traffic(job, model, made)
    if fits(made, job):
        typer.echo("\n".join(chart_lines(job, made, model, width)))


def room_lines(
    job: Job, model: Inventory, made: Plan, memories: Sequence[WorkerMemory], width: int
) -> Iterator[str]:
    """What memory the plan takes, of devices and of machines."""
    from dougong.cli.traffic import crossing_bytes

    largest = max(expert_bytes(job, model, one.name) for one in job.islands)
    yield total_line(job, model, memories, largest, crossing_bytes(job, model, made))
    yield from kind_lines(made, memories, width)
    yield from unit_lines(job, model, memories)
    yield from owner_lines(job, model, made)
    for reason in unknown_activations(model):
        yield f"warning: activations are not counted: {reason}"
    yield from host_lines([memory.state_on_host for memory in memories])
    yield from shared_host_lines(job)
    yield from snapshot_lines(snapshot_bytes(job, model, made))
    yield from audit_lines(job, audit_bytes(job, model, made))
    peaks = [memory.peak for memory in memories]
    yield from memory_lines(job, made, peaks, [memory.on_host for memory in memories])
    yield from machine_lines(job, made, memories, memory_bytes())


def _plan_of(job: Job, model: Inventory) -> tuple[Plan, Remarks]:
    """The plan where each of the job's nodes is a machine like this one, and what it leaves out."""
    made = plan_job(job, model, seats_of_job(job.islands))
    machines = dict.fromkeys((worker.node for worker in made.workers), memory_bytes())
    short = short_of_room(job, model, made, machines)
    planned = made if short is None else replace(made, has_snapshots=False)
    return planned, Remarks(tuple(left_out_snapshots(short)))


def model_line(model: Inventory) -> str:
    """Which family, how many parameters, how many layers with experts, which attention."""
    num_parameters = f"{model.num_parameters:,} parameters"
    line = f"{model.family}: {num_parameters}, {len(model.sites)} expert layers"
    return f"{line}, {attention_words(model.attention)}"


def attention_words(forms: Sequence[str]) -> str:
    """By which form attention is computed, as far as that is known without a device."""
    if len(forms) == 1:
        return f"attention by {forms[0]}"
    return f"attention by the first of {', '.join(forms)} that has fixed bits on the run's devices"


def plan_table(made: Plan, state_bytes: Sequence[int]) -> Table:
    """One row for each worker: lanes, experts, how many dense tensors, or pieces, it owns, and
    its `state_bytes`; one for many neighbours of an island that have as much each, or for all of
    it."""
    num_owned = Counter(made.owners.values())
    table = plain_table(
        "worker", "role", "device", "lanes", "experts", "dense tensors owned", "state"
    )
    groups = _neighbours(made, _amounts)
    if len(groups) > MOST_ROWS and len(made.workers) > MOST_ROWS:
        groups = _neighbours(made, lambda worker: (worker.island, worker.role))
    for workers in groups:
        if len(workers) < LEAST_FOLDED:
            for worker in workers:
                table.add_row(*_worker_row(worker, num_owned[worker.rank], state_bytes))
        else:
            table.add_row(*_folded_row(workers, num_owned, state_bytes))
    return table


def _neighbours(made: Plan, kind: Callable[[Worker], object]) -> list[list[Worker]]:
    """Workers one after the other that are of one kind."""
    return [list(alike) for _, alike in itertools.groupby(made.workers, key=kind)]


def _amounts(worker: Worker) -> tuple[object, ...]:
    """What workers that share a row have in common."""
    num_experts = tuple(map(len, worker.experts))
    return worker.island, worker.role, len(worker.lanes), num_experts


def _worker_row(worker: Worker, num_owned: int, state_bytes: Sequence[int]) -> tuple[str, ...]:
    return (
        worker.name,
        worker.role,
        worker.device,
        ranges(worker.lanes) or "-",
        site_experts(worker.experts) or "-",
        str(num_owned),
        size(state_bytes[worker.rank]),
    )


def _folded_row(
    workers: Sequence[Worker], num_owned: Mapping[int, int], state_bytes: Sequence[int]
) -> tuple[str, ...]:
    """Many workers with as much each: `east/0-31`."""
    first = workers[0]
    of_each = itertools.chain.from_iterable(worker.experts for worker in workers)
    num_experts = list(map(len, of_each))
    return (
        worker_list(worker.name for worker in workers),
        first.role,
        first.device.partition(":")[0],
        _between([len(worker.lanes) for worker in workers], str) if first.lanes else "-",
        _range(num_experts) if any(num_experts) else "-",
        _between([num_owned[worker.rank] for worker in workers], str),
        _between([state_bytes[worker.rank] for worker in workers], size),
    )


def _range(numbers: Sequence[int]) -> str:
    """`4 each`, or `1 to 3 each`."""
    low, high = min(numbers), max(numbers)
    return f"{low} each" if low == high else f"{low} to {high} each"


def _between(numbers: Sequence[int], words: Callable[[int], str]) -> str:
    """`12 each`, or `11 to 12`."""
    low, high = words(min(numbers)), words(max(numbers))
    return f"{low} each" if low == high else f"{low} to {high}"


def host_lines(kept: Sequence[int]) -> Iterator[str]:
    """What masters and optimizer state take beside the devices; nothing where they lie on these."""
    if any(kept):
        yield (
            f"masters and optimizer state (optimizer.device: host): {size(sum(kept))} of host "
            f"memory; a worker needs up to {size(max(kept))}"
        )


def shared_host_lines(job: Job) -> Iterator[str]:
    """Of which islands `optimizer.device: host` moves nothing, since their workers share the
    machine's memory."""
    names = [one.name for one in job.islands if get_accelerator(one.accelerator).shares_machine]
    if job.optimizer.is_on_host and names:
        yield (
            f"optimizer.device: host: workers of {' and '.join(names)} compute in the machine's "
            "own memory; their masters and optimizer state lie there in any case, and are part of "
            "the state above"
        )


def snapshot_lines(kept: Sequence[SnapshotBytes]) -> Iterator[str]:
    """What snapshots of the state take beside it; nothing where there are none."""
    own, replicas = sum(part.own for part in kept), sum(part.replicas for part in kept)
    if own:
        most = max(part.total for part in kept)
        yield (
            f"snapshots (fault.snapshots): {size(own + replicas)} of host memory, {size(own)} of "
            f"workers' own state and {size(replicas)} kept for others; a worker needs up to "
            f"{size(most)}"
        )


def audit_lines(job: Job, taken: Sequence[AuditBytes]) -> Iterator[str]:
    """What a step that is computed a second time takes beside its time; nothing where none is."""
    every = job.fault.audit
    if every is not None:
        which = "each step" if every in ("all", 1) else f"one step in {every}"
        memory, sent = max(part.memory for part in taken), max(part.sent for part in taken)
        yield (
            f"audits (fault.audit): {which} takes up to {size(memory)} more of a worker's memory, "
            f"sends its messages twice, and up to {size(sent)} of weights and state a worker"
        )


def memory_lines(
    job: Job, made: Plan, needed: Sequence[int], beside: Sequence[int]
) -> Iterator[str]:
    """Whether each island's workers would fit at their peaks on this machine's devices, together
    with what lies beside these where the two are one. A run asks the devices that it gets, and
    refuses what cannot fit."""
    for island in job.islands:
        if island.memory_gb is not None:
            continue
        together = _who_share(job, island)
        if together[0] != island.name:
            continue  # told with the first of them
        ranks = [worker.rank for worker in made.workers if worker.island in together]
        kept = sum(beside[rank] for rank in ranks)
        line = _memory_line(island, [needed[rank] for rank in ranks], kept)
        if line:
            yield line


def _who_share(job: Job, island: Island) -> list[str]:
    """Those whose memory is counted together with this island's, in the order of the job file; of
    one whose workers have devices of their own, itself."""
    if not island.shares_device:
        return [island.name]
    return [one.name for one in _sharing(job, island) if one.memory_gb is None]


def _sharing(job: Job, island: Island) -> list[Island]:
    """All islands whose workers use the device of this one's; empty where each has its own."""
    if not island.shares_device:
        return []
    places = [(one, (one.accelerator, one.node)) for one in job.islands if one.shares_device]
    return [one for one, place in places if place == (island.accelerator, island.node)]


def _memory_line(island: Island, needed: Sequence[int], kept: int) -> str:
    """Of one island, whose workers need so many bytes at their peaks, and together so many of the
    machine's memory beside these; empty where they fit."""
    accelerator = get_accelerator(island.accelerator)
    there = memory_of(accelerator)
    if there is None:
        return (
            f"memory of {island.name} is not checked: this machine knows no {accelerator.name} "
            f"device's size; a run asks its own, or set islands.{island.name}.memory_gb"
        )
    most, what = max(needed), "a worker needs up to"
    if island.shares_device:
        most, what = sum(needed), "all workers on its device together need"
    if accelerator.shares_machine:
        most, what = sum(needed) + kept, "its workers together need"
    if most <= there:
        return ""
    return (
        f"warning: {island.name}: {what} {size(most)}, a machine like this one has "
        f"{size(there)}: a run there is refused"
    )


def path_lines(made: Plan) -> Iterator[str]:
    """Which way bytes take between each two islands, where there are several of them."""
    ways: dict[str, list[str]] = {}
    for path in made.paths:
        if path.one != path.other:
            ways.setdefault(path.name, []).append(f"{path.one} - {path.other}")
    for name, pairs in ways.items():
        yield f"between islands: {', '.join(pairs)}: {name}"


def _remarks(job: Job) -> Remarks:
    """What the job, and this machine, would have a run say at its start."""
    here = absent_devices(job.islands) + variable_remarks(job)
    here += remarks_on_open_files(sum(island.workers for island in job.islands))
    return here + Remarks(warnings=tuple(doubts(job)))


def _shared_lines(together: Sequence[Island]) -> Iterator[str]:
    """How many workers use one device, over all islands of them, and what that leaves to each."""
    num_workers = sum(island.workers for island in together)
    each = " + ".join(f"{island.workers} of {island.name}" for island in together)
    of_each = f" ({each})" if len(together) > 1 else ""
    sharers = plural(num_workers, f"{together[0].accelerator} worker")
    yield (
        f"{', '.join(island.name for island in together)}: {sharers}{of_each} on one device "
        "(devices: shared): messages go through host memory, and it computes for one after another"
    )
    free = [island.name for island in together if island.memory_gb is None]
    for island in together:
        if island.memory_gb is not None:
            share = f"{island.memory_gb / island.workers:g} GB for each of {island.name}'s workers"
            yield f"    memory: {share} (memory_gb {island.memory_gb:g} / {island.workers})"
    if free:
        yield (
            f"    memory: each worker of {', '.join(free)} takes what it needs, and all of them "
            "together no more than the device has"
        )


def remark_lines(told: Remarks) -> Iterator[str]:
    """What a run would tell once at its start, warnings last."""
    yield from (f"note: {text}" for text in told.notes)
    yield from (f"warning: {text}" for text in told.warnings)


def environment_lines(job: Job, width: int) -> Iterator[str]:
    """What each island's workers find in their environment on a machine like this one, folded at
    `width` columns; the shell's is left alone."""
    for island in job.islands:
        accelerator = get_accelerator(island.accelerator)
        found = worker_variables(accelerator, island.threads, job.is_deterministic)
        words = [f"{key}={value}" for key, value in sorted(found.items())]
        together = _sharing(job, island)
        if together and together[0] == island:  # else told with the first of them
            yield from _shared_lines(together)
        if island.spares:
            spares = plural(island.spares, "spare agent")
            yield f"{island.name}: {spares} beside these, each as large as its largest agent"
        yield f"{island.name}: workers run with"
        folded = textwrap.TextWrapper(width - 4, break_long_words=False, break_on_hyphens=False)
        yield from (f"    {line}" for line in folded.wrap(" ".join(words)))
