"""zebra goes layer by layer over all micro-batches on workers of any role: gradients of a layer are complete before
those of the layer but one below it begin."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence

import pytest
from dougong.parallel.schedules.operation import Kind, Operation, Program
from dougong.parallel.schedules.registry import make_programs
from dougong.parallel.schedules.simulate import simulate
from tests.parallel.schedules.orders import TEAMS
from tests.parallel.schedules.timing import Durations

SHAPES = list(itertools.product((1, 2, 5), (1, 2, 3, 6)))
"""(sites, micro-batches)."""


def places(operations: Sequence[Operation], kind: Kind) -> list[int]:
    """The segments or sites of such operations, as they follow each other; one for many micro-batches in a row."""
    its = (operation.site for operation in operations if operation.kind is kind)
    return [place for place, _ in itertools.groupby(its)]


def layers_of(operation: Operation, num_sites: int) -> Collection[int]:
    """The layers, one for each site, whose weights an operation brings gradients for. A segment ends one layer and
    begins the next."""
    if operation.kind is Kind.WEIGHT_GRADIENTS:
        return (operation.site,)
    if operation.kind is Kind.BACKWARD:
        return [layer for layer in (operation.site - 1, operation.site) if 0 <= layer < num_sites]
    return ()


def layers_begun(program: Program, num_sites: int) -> Iterator[int]:
    """How many layers have some of their gradients, but not all, at each operation that brings some."""
    touching = [layers_of(operation, num_sites) for operation in program.operations]
    last = {layer: at for at, layers in enumerate(touching) for layer in layers}
    begun: set[int] = set()
    for at, layers in enumerate(touching):
        begun |= set(layers)
        if layers:
            yield len(begun)
        begun -= {layer for layer in begun if last[layer] == at}


@pytest.mark.parametrize("team", TEAMS)
def test_all_micro_batches_go_through_a_site_before_any_goes_on_to_the_next(team: str) -> None:
    for num_sites, num_microbatches in SHAPES:
        up, down = list(range(num_sites)), list(reversed(range(num_sites)))
        for program in make_programs("zebra", num_sites, num_microbatches, TEAMS[team]):
            if program.has_attention:
                assert places(program.operations, Kind.FORWARD) == [*up, num_sites]
                assert places(program.operations, Kind.BACKWARD) == [num_sites, *down]
            if program.has_experts:
                assert places(program.operations, Kind.EXPERTS_FORWARD) == up
                assert places(program.operations, Kind.EXPERTS_BACKWARD) == down
                assert places(program.operations, Kind.WEIGHT_GRADIENTS) == down


@pytest.mark.parametrize("team", TEAMS)
def test_gradients_of_at_most_two_layers_are_begun_and_not_complete(team: str) -> None:
    for num_sites, num_microbatches in SHAPES:
        for program in make_programs("zebra", num_sites, num_microbatches, TEAMS[team]):
            most = 2 if program.has_attention else 1
            assert max(layers_begun(program, num_sites)) == min(most, num_sites)


@pytest.mark.parametrize("name", ["serial", "colocated"])
def test_one_micro_batch_after_the_other_leaves_all_layers_open(name: str) -> None:
    for num_sites, num_microbatches in SHAPES:
        (program,) = make_programs(name, num_sites, num_microbatches, TEAMS["alone"])
        most = num_sites if num_microbatches > 1 else min(2, num_sites)
        assert max(layers_begun(program, num_sites)) == most


def test_on_workers_of_both_roles_it_hides_messages_for_which_colocated_waits() -> None:
    team, cost = {"b0": "both", "b1": "both"}, Durations(1, 2, 1, 2, message_s=0.5, weights_s=1)
    found = {name: simulate(make_programs(name, 8, 8, team), cost).makespan_s for name in ("zebra", "colocated")}
    computed = 8 * (9 * (1 + 2) + 8 * (1 + 2))
    assert found == {"zebra": computed, "colocated": computed + 8 * 8 * 3 * 0.5}
