"""What memory a plan takes, in words: what a worker of each kind holds at its peak, and why."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from operator import itemgetter

from dougong.job.schema import Job
from dougong.parallel import pieces
from dougong.parallel.pieces import cut_tensors
from dougong.parallel.plan import Inventory, Plan, TensorSpec, Worker
from dougong.planner.needs.holdings import checkpoint_bytes, owned_parameters, owning_bytes
from dougong.planner.needs.refusal import beside_devices, together
from dougong.planner.needs.terms import Terms, WorkerMemory
from dougong.planner.needs.worker_memory import shares_machine
from dougong.planner.nodes import UNNAMED
from dougong.ui.formatting import plural, size, worker_list

MOST_KINDS = 12
"""Kinds of workers that are told one by one; of more, those that need most."""
ALIKE = 0.02
"""Workers whose peaks are that close to each other, of one, are of a kind."""


def total_line(
    job: Job, model: Inventory, memories: Sequence[WorkerMemory], expert_bytes: int, crossing: float
) -> str:
    """What all workers hold together, what a checkpoint takes, and the bytes that a step sends."""
    state = sum(memory.state for memory in memories)
    peaks = sum(memory.peak for memory in memories)
    beside = sum(memory.on_host for memory in memories)
    total = f"{plural(len(memories), 'worker')}: {size(state)} of state"
    return (
        f"{total}, {size(peaks)} at their peaks together and {size(beside)} of their machines' "
        f"memory beside that; an expert takes {size(expert_bytes)} on "
        f"its worker; a checkpoint takes {size(checkpoint_bytes(job, model))}; a step sends "
        f"{size(crossing)} from worker to worker"
    )


def kind_lines(made: Plan, memories: Sequence[WorkerMemory], width: int) -> Iterator[str]:
    """A paragraph for each kind of worker: its peak, when that is, and every term of it."""
    kinds = _kinds(made, memories)
    ordered = sorted(kinds, key=lambda kind: -memories[kind[0].rank].peak)
    for workers in ordered[:MOST_KINDS]:
        memory = max((memories[worker.rank] for worker in workers), key=lambda one: one.peak)
        yield f"memory of {_who(workers)}: {size(memory.peak)} at its peak, {memory.top}"
        yield from _folded(_words(memory.at_peak), width)
        if memory.host:
            yield from _folded(
                f"and {size(memory.on_host)} of the machine's: {_words(memory.host)}", width
            )
    left = sum(map(len, ordered[MOST_KINDS:]))
    if left:
        yield f"    ({plural(left, 'worker')} of other kinds need less)"


def unit_lines(job: Job, model: Inventory, memories: Sequence[WorkerMemory]) -> Iterator[str]:
    """Of dense tensors that come and go: how many units they are, and the largest."""
    if job.dense == "copy" or model.units is None:
        return
    name, weights = max((one.unit for one in memories if one.unit is not None), key=itemgetter(1))
    num = len(model.units.units)
    lasting = ", ".join(model.units.lasting)
    stays = f"; {lasting} stays through a step, for several modules use it" if lasting else ""
    yield (
        f"tensors outside of the experts come and go in {num} units, the largest {name}: "
        f"{size(weights)} of weights{stays}"
    )


def owner_lines(job: Job, model: Inventory, made: Plan) -> Iterator[str]:
    """Of large dense tensors: how many are owned in pieces, what a worker owns, and what stays
    whole and why. Nothing of a model that has none."""
    large = [t for t in model.tensors if t.trainable and t.num_parameters > pieces.PIECE_NUMEL]
    if not large:
        return
    cut = cut_tensors(made.owners)
    owned, each = owned_parameters(model, made), owning_bytes(job)
    num_owners = sum(bool(worker.lanes) for worker in made.workers)
    most = max(range(len(owned)), key=owned.__getitem__)
    line = (
        f"outside of the experts {made.workers[most].name} owns most: {size(owned[most] * each)} "
        f"of weights and moments ({size(sum(owned) * each / num_owners)} in the mean), and the "
        "gradients of those"
    )
    if cut:
        num_pieces = sum(map(len, cut.values()))
        line += f"; {plural(len(cut), 'tensor')} of more than {pieces.PIECE_NUMEL:,} elements "
        line += f"{'is' if len(cut) == 1 else 'are'} owned in {num_pieces} pieces"
    yield line
    whole = sorted((t for t in large if t.name not in cut), key=lambda t: -t.num_parameters)
    if whole:
        yield _whole_line(job, made, whole)


def _whole_line(job: Job, made: Plan, whole: Sequence[TensorSpec]) -> str:
    """`whole`: large tensors that are not cut, the largest first."""
    first = whole[0]
    why = "files have it in another form"
    if first.is_stored_alike:
        why = f"{job.optimizer.name} updates it as a whole"
    owner = made.workers[made.owners[first.name]].name
    taken = size(first.num_parameters * owning_bytes(job))
    more = f"; {plural(len(whole) - 1, 'smaller one')} likewise" if len(whole) > 1 else ""
    return f"{first.name} {list(first.shape)} is not cut, since {why}: {taken} on {owner}{more}"


def machine_lines(
    job: Job, made: Plan, memories: Sequence[WorkerMemory], there: int | None
) -> Iterator[str]:
    """Warnings of what would not fit in the memory of machines like this one, which has `there`
    bytes: all that lies on one that the job names; where it names none, what a worker has beside
    its device, and several islands of processors together."""
    if there is None:
        return
    is_near = shares_machine(job)
    by_node: dict[str, list[Worker]] = {}
    for worker in made.workers:
        by_node.setdefault(worker.node, []).append(worker)
    for node, workers in by_node.items():
        near = [worker for worker in workers if is_near[worker.island]]
        far = [memories[worker.rank] for worker in workers if not is_near[worker.island]]
        taken = sum(together([memories[worker.rank] for worker in near], with_host=True).values())
        if node == UNNAMED:
            islands = list(dict.fromkeys(worker.island for worker in near))
            yield from _on_any_machine(islands, taken, far, there)
            continue
        taken += sum(beside_devices(far).values())
        if taken > there and (far or len({worker.island for worker in near}) > 1):
            yield (
                f"warning: {node}: its {plural(len(workers), 'worker')} take {size(taken)} of its "
                f"memory, a machine like this one has {size(there)}: a run there is refused"
            )


def _on_any_machine(
    islands: Sequence[str], taken: int, far: Sequence[WorkerMemory], there: int
) -> Iterator[str]:
    """Of workers for which the job names no machine: `islands` that compute in its memory, of which
    they take so much together, and those that have devices (`far`)."""
    most = max((memory.on_host for memory in far), default=0)
    if most > there:
        yield (
            f"warning: a worker takes {size(most)} of its machine's memory beside its device, a "
            f"machine like this one has {size(there)}: a run there is refused"
        )
    if len(islands) > 1 and taken > there:
        yield (
            f"warning: {', '.join(islands)}: on one machine their workers together take "
            f"{size(taken)}, and one like this has {size(there)}: a run there is refused; "
            "islands.*.node puts them on several"
        )


def _kinds(made: Plan, memories: Sequence[WorkerMemory]) -> list[list[Worker]]:
    """Workers of one island and role, whose peaks are nearly the same."""
    found: list[list[Worker]] = []
    for worker in made.workers:
        for alike in found:
            if _is_alike(worker, alike[0], memories):
                alike.append(worker)
                break
        else:
            found.append([worker])
    return found


def _is_alike(one: Worker, other: Worker, memories: Sequence[WorkerMemory]) -> bool:
    if (one.island, one.role_in_step) != (other.island, other.role_in_step):
        return False
    mine, theirs = memories[one.rank].peak, memories[other.rank].peak
    return abs(mine - theirs) <= ALIKE * max(mine, theirs)


def _who(workers: Sequence[Worker]) -> str:
    if len(workers) == 1:
        return workers[0].name
    return f"each of {worker_list(worker.name for worker in workers)}"


def _words(terms: Terms) -> str:
    return ", ".join(f"{term.words} {size(num_bytes)}" for term, num_bytes in terms.items())


def _folded(text: str, width: int) -> Iterator[str]:
    folded = textwrap.TextWrapper(width - 4, break_long_words=False, break_on_hyphens=False)
    yield from (f"    {line}" for line in folded.wrap(text))
