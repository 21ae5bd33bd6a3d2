"""The bytes that a step of a plan would send, as a table."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

import typer
from rich.table import Table

from dougong.cli.tables import plain_table, print_table
from dougong.job.schema import Job
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.plan import Inventory, Plan
from dougong.parallel.traffic import ByKind, Link, LinkBytes, bytes_by_link, islands_of, nodes_of
from dougong.training.traffic import flows_of_step
from dougong.ui.formatting import size

COLUMNS: Mapping[str, Sequence[TrafficKind]] = {
    "rows": [TrafficKind.ROWS],
    "outputs": [TrafficKind.OUTPUTS],
    "output grads": [TrafficKind.OUTPUT_GRADIENTS],
    "row grads": [TrafficKind.ROW_GRADIENTS],
    "sizes": [TrafficKind.SIZES],
    "dense sums": [TrafficKind.SUMS],
    "weights": [TrafficKind.WEIGHTS],
    "reports": [TrafficKind.REPORTS, TrafficKind.COUNTS],
    "replicas": [TrafficKind.REPLICAS],
}
HEAD = "bytes of a step between islands; ~ if routing is even and a library adds in a ring"


def print_traffic(job: Job, inventory: Inventory, plan: Plan) -> None:
    """Nothing where nothing leaves a worker."""
    table = traffic_table(job, inventory, plan)
    if table is not None:
        typer.echo(HEAD)
        print_table(table)


def traffic_table(job: Job, inventory: Inventory, plan: Plan) -> Table | None:
    """A row for each link between islands, and between nodes where islands are pinned to several
    otherwise than each to its own; None where nothing leaves a worker."""
    flows = flows_of_step(job, inventory, plan)
    links = bytes_by_link(flows, islands_of(plan))
    if not links:
        return None
    if _nodes_tell_more(plan):
        links |= bytes_by_link(flows, _named(nodes_of(plan)))
    crossing = set(itertools.chain.from_iterable(links.values()))
    shown = [name for name, kinds in COLUMNS.items() if crossing & set(kinds)]
    table = plain_table("from", "to", *shown, "in all")
    for link, by_kind in links.items():
        table.add_row(*_row(link, by_kind, shown))
    return table


def _nodes_tell_more(plan: Plan) -> bool:
    nodes = nodes_of(plan)
    parted = sorted(map(sorted, nodes.values()))
    return len(nodes) > 1 and parted != sorted(map(sorted, islands_of(plan).values()))


def _named(nodes: Mapping[str, Collection[int]]) -> dict[str, Collection[int]]:
    """An island that is pinned to none may run anywhere: `-`."""
    return {f"node {name}": ranks for name, ranks in nodes.items()}


def _row(link: Link, by_kind: ByKind, shown: Sequence[str]) -> tuple[str, ...]:
    cells = [_words(_of(by_kind, name)) for name in shown]
    return *link, *cells, _words(sum(by_kind.values(), LinkBytes(0)))


def _of(by_kind: ByKind, column: str) -> LinkBytes | None:
    found = [by_kind[kind] for kind in COLUMNS[column] if kind in by_kind]
    return sum(found, LinkBytes(0)) if found else None


def _words(amount: LinkBytes | None) -> str:
    if amount is None:
        return "-"
    return ("" if amount.is_exact else "~") + size(round(amount.num_bytes))


def crossing_bytes(job: Job, model: Inventory, made: Plan) -> float:
    """All that a step sends between workers, with experts chosen evenly."""
    everybody = {"all": range(len(made.workers))}
    total = 0.0
    for by_kind in bytes_by_link(flows_of_step(job, model, made), everybody).values():
        total += sum(part.num_bytes for part in by_kind.values())
    return total
