"""What all workers must have in common before the first step; who differs is named at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dougong.control.worker_api import WorkerContext
from dougong.control.worker_messages import WorkerWarning
from dougong.data.windows import TokenWindows
from dougong.errors import DataError, DeviceError
from dougong.ops.experts.base import ExpertOp, identity_of
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan, Worker


def agree_on_data(world: World, plan: Plan, data: TokenWindows) -> None:
    """Every worker must read the same tokens: nodes may have other files, or another standard
    library. Collective.

    Raises `DataError` on every worker when one reads other tokens than the first.
    """
    digest = bytes.fromhex(data.digest())
    digests = world.gather_bytes(digest, [len(digest)] * world.size)
    first, others = _first_and_others(plan.workers, digests)
    if not others:
        return
    names = ", ".join(f"{w.name} on {w.node}" for w in others)
    raise DataError(
        f"{data.name}: {names} read other tokens than {first.name} on {first.node}; give every "
        "node the same files, or `data.tokens` on a file system that all nodes share"
    )


def agree_on_operators(world: World, plan: Plan, op: ExpertOp) -> None:
    """Workers with experts must compute them by the same form: a library that only some have would
    part their bits, and so would other tiles or another version of one. Collective.

    Raises `DeviceError` on the first worker that differs; its peers wait in their next message,
    which is then lost to them.
    """
    forms = world.gather_bytes(identity_of(op).encode())
    holders = [w for w in plan.workers if w.num_experts]
    first, others = _first_and_others(holders, forms)
    if not others or world.rank != others[0].rank:
        return
    names = ", ".join(w.name for w in others)
    raise DeviceError(
        f"{names}: experts are computed by {identity_of(op)}, not by the form used on "
        f"{first.name} ({forms[first.rank].decode()}); install the same packages on all nodes "
        "(kernels' compilers among them), or set determinism: run"
    )


def fallback_teller(context: WorkerContext) -> Callable[[str], None]:
    """Tells that experts run in a slower form, once for all workers that have experts."""
    holders = [worker.rank for worker in context.plan.workers if worker.num_experts]

    def tell(text: str) -> None:
        if context.worker.rank in holders[:1]:
            context.control.send(WorkerWarning(text))

    return tell


def _first_and_others(
    workers: Sequence[Worker], found: Sequence[bytes]
) -> tuple[Worker, list[Worker]]:
    """The first worker, and those who found (by rank) anything else than it did."""
    first = workers[0]
    return first, [w for w in workers if found[w.rank] != found[first.rank]]
