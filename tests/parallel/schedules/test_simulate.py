"""The time of a step: small cases by hand, theorem 1 by brute force, and what the papers' numbers say."""

from __future__ import annotations

import pytest
from dougong.parallel.plan import Role
from dougong.parallel.schedules.operation import Kind, Operation, Program
from dougong.parallel.schedules.registry import SCHEDULES, make_programs
from dougong.parallel.schedules.simulate import Cost, Timeline, simulate
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.parallel.schedules.brute_force import Ratio, least_makespan
from tests.parallel.schedules.orders import SPLIT, TEAMS
from tests.parallel.schedules.plain import simulate_plainly
from tests.parallel.schedules.timing import Durations, bound_s, busy_s, efficiency

# HeterMoE's table 3: T_A : T_E : T_comm of a layer, and the speed-up over DistEP (our `serial`) that it reaches.
TABLE_3 = [((0.63, 1.0, 0.31), 1.73), ((0.90, 1.0, 0.32), 1.97)]


def durations(ratio: Ratio) -> Durations:
    back = ratio.back
    return Durations(
        ratio.attention, back * ratio.attention, ratio.experts, back * ratio.experts, ratio.message
    )  # fmt: skip


def timed(name: str, num_sites: int, num_microbatches: int, cost: Cost, roles: dict[str, Role] = SPLIT) -> Timeline:
    return simulate(make_programs(name, num_sites, num_microbatches, roles), cost)


def layers(num_layers: int, cost: Cost) -> Cost:
    """A layer is a segment and a site; what follows the last experts takes no time."""

    def of(worker: str, operation: Operation) -> float:
        head = operation.kind in (Kind.FORWARD, Kind.BACKWARD) and operation.site == num_layers
        return 0.0 if head else cost(worker, operation)

    return of


def test_one_micro_batch_by_hand() -> None:
    trace = simulate(make_programs("zebra", 1, 1, SPLIT), Durations(1, 2, 4, 9, 0.5, weights_s=1), latency_s=0.25)
    spans = [(s.worker, s.operation.kind.words, s.start_s, s.end_s) for s in trace.computation]
    assert sorted(spans, key=lambda span: span[2]) == [
        ("a", "forward", 0, 1),
        ("e", "experts forward", 1.75, 5.75),
        ("a", "forward", 6.5, 7.5),
        ("a", "backward", 7.5, 9.5),
        ("e", "experts backward", 10.25, 18.25),
        ("e", "weight gradients", 18.25, 19.25),
        ("a", "backward", 19.0, 21.0),
    ]
    assert [(s.worker, s.peer, s.start_s, s.end_s) for s in trace.messages] == [
        ("a", "e", 1, 1.5), ("e", "a", 5.75, 6.25), ("a", "e", 9.5, 10), ("e", "a", 18.25, 18.75),
    ]  # fmt: skip
    assert (trace.makespan_s, busy_s(trace, "a"), busy_s(trace, "e"), bound_s(trace)) == (21, 6, 13, 13)
    assert efficiency(trace) == 13 / 21


def test_one_message_at_a_time_on_a_channel() -> None:
    trace = timed("zebra", 1, 3, Durations(1, 1, 0.5, 0.5, 2))
    rows = [(s.start_s, s.end_s) for s in trace.messages if s.operation.kind is Kind.SEND_ROWS]
    answers = [(s.start_s, s.end_s) for s in trace.messages if s.operation.kind is Kind.SEND_OUTPUTS]
    assert rows == [(1, 3), (3, 5), (5, 7)]
    assert answers == [(3.5, 5.5), (5.5, 7.5), (7.5, 9.5)]


def test_a_receive_waits_for_the_slowest_peer() -> None:
    def cost(worker: str, operation: Operation) -> float:
        return {"a0": 1.0, "a1": 3.0, "a2": 2.0, "e0": 1.0, "e1": 1.0}[worker] if operation.kind.computes else 0.0

    trace = timed("zebra", 1, 1, cost, TEAMS["3:2"])
    first = next(span for span in trace.computation if span.worker == "e0")
    assert (first.start_s, trace.makespan_s) == (3.0, 14.0)


def test_a_message_to_oneself_takes_no_time() -> None:
    trace = timed("colocated", 2, 2, Durations(1, 2, 3, 4, 100), {"b": "both"})
    assert not trace.messages
    assert trace.makespan_s == busy_s(trace, "b") == 2 * (3 * 3 + 2 * 7)


def test_weights_apart_let_the_row_gradients_leave_earlier() -> None:
    cost = Durations(1, 2, 4, 8, 0, weights_s=4)
    before, after = timed("serial", 1, 1, cost), timed("zebra", 1, 1, cost)
    assert (before.makespan_s, after.makespan_s) == (18, 16)
    assert busy_s(before, "e") == busy_s(after, "e") == 12


@pytest.mark.parametrize("message", [0.0, 0.25, 1.0, 2.0])
@pytest.mark.parametrize("attention", [0.5, 1.0, 2.0])
def test_serial_is_the_sum_of_its_parts(attention: float, message: float) -> None:
    trace = timed("serial", 3, 2, Durations(attention, 2 * attention, 1, 2, message))
    assert trace.makespan_s == 2 * (4 * 3 * attention + 3 * 3 + 3 * 4 * message)


@pytest.mark.parametrize("num_sites", [1, 2, 3])
@pytest.mark.parametrize("num_microbatches", [2, 3])
@pytest.mark.parametrize(
    "ratio",
    [Ratio(1, 1, 0), Ratio(1, 1, 0.25), Ratio(0.625, 1, 0.25), Ratio(1, 0.5, 0.25), Ratio(1, 2, 1, back=1)],
    ids=str,
)
def test_zebra_is_minimal(ratio: Ratio, num_sites: int, num_microbatches: int) -> None:
    """HeterMoE, theorem 1. The paper's L counts attention blocks: L = 2, 3, 4 here, one more than sites."""
    best = least_makespan(num_sites, num_microbatches, ratio)
    assert timed("zebra", num_sites, num_microbatches, durations(ratio)).makespan_s == best
    assert timed("serial", num_sites, num_microbatches, durations(ratio)).makespan_s > best


eighths = [number / 8 for number in range(17)]
times = st.sampled_from(eighths[1:])
ratios = st.builds(Ratio, times, times, st.sampled_from(eighths), st.sampled_from([1.0, 1.5, 2.0, 3.0]))


@given(ratios)
@settings(max_examples=60, deadline=None)
def test_zebra_is_minimal_for_any_ratio_in_which_attention_takes_longer(ratio: Ratio) -> None:
    zebra, best = timed("zebra", 2, 3, durations(ratio)).makespan_s, least_makespan(2, 3, ratio)
    assert zebra == best if ratio.attention >= ratio.experts else best <= zebra < 1.03 * best


@pytest.mark.parametrize(
    ("num_microbatches", "ratio", "best", "zebra"),
    [(3, Ratio(0.875, 1.25, 0.125), 25.875, 26.0), (4, Ratio(0.5, 1.5, 1.125, back=0.5), 23.625, 24.0)],
)
def test_theorem_1_has_exceptions(num_microbatches: int, ratio: Ratio, best: float, zebra: float) -> None:
    """Where the experts are a little slower than attention, or backwards shorter than forwards, one micro-batch that
    runs ahead of the others makes the experts' wait at the turn-around shorter."""
    assert least_makespan(2, num_microbatches, ratio) == best
    assert timed("zebra", 2, num_microbatches, durations(ratio)).makespan_s == zebra


def table_3(name: str, parts: tuple[float, float, float]) -> Timeline:
    """8 layers, 8 micro-batches. The parts are shares of a whole step: T_comm is four of a layer's messages (there and
    back, forward and backward), T_A and T_E are three forwards long; `parts` are scaled so that T_E's is 1."""
    attention, experts, communication = parts
    cost = Durations(attention, 2 * attention, experts, 2 * experts, 3 * communication / 4)
    return timed(name, 8, 8, layers(8, cost))


@pytest.mark.parametrize("name", ["zebra", "af_pipe"])
@pytest.mark.parametrize(("parts", "reached"), TABLE_3)
def test_speed_up_over_serial_at_hetermoe_s_ratios(
    name: str, parts: tuple[float, float, float], reached: float
) -> None:
    """HeterMoE measures 89 % of the bound; without its overheads the same schedule takes 0.98 of it."""
    trace, serial = table_3(name, parts), table_3("serial", parts)
    assert bound_s(trace) == pytest.approx(8 * 8 * 3 * 1.0)
    assert efficiency(trace) > 0.98
    assert serial.makespan_s == pytest.approx(8 * 8 * 3 * sum(parts))
    assert reached < serial.makespan_s / trace.makespan_s < sum(parts)


@pytest.mark.parametrize("num_microbatches", [8, 16, 32])
def test_af_pipe_is_bounded_in_memory_and_nearly_as_fast_as_zebra(num_microbatches: int) -> None:
    cost = layers(8, Durations(1, 2, 1, 2, 0.25))
    zebra, af_pipe = (timed(name, 8, num_microbatches, cost) for name in ("zebra", "af_pipe"))
    assert zebra.makespan_s <= af_pipe.makespan_s < 1.03 * zebra.makespan_s


@pytest.mark.parametrize("message", [0.5, 1.0])
def test_groups_of_four_hide_communication_that_takes_a_stage_of_its_own(message: float) -> None:
    """A, dispatch, experts, combine: with all four equally long, fewer than four micro-batches leave gaps."""
    cost = layers(8, Durations(1, 2, 1, 2, message))
    assert efficiency(timed("af_pipe", 8, 16, cost)) > 0.95
    assert efficiency(timed("zebra", 8, 2, cost)) < 0.85


@pytest.mark.parametrize(("num_attention", "num_experts"), [(1, 1), (1, 3), (3, 1), (2, 2)])
def test_colocated_and_disaggregated_are_equal_where_all_divides(num_attention: int, num_experts: int) -> None:
    """Row 6 of the validation sheet, DisagMoE's equality argument: without communication, W workers of both roles take
    (a + f) / W a layer and micro-batch, and so do M + N = W workers of one role each if a / M = f / N. Exact, but for
    the filling and draining of the pipeline, which does not grow with the number of micro-batches."""
    num_workers, num_layers = num_attention + num_experts, 4
    a, f = 8.0 * num_attention, 8.0 * num_experts

    def cost(size: dict[str, int]) -> Cost:
        back = Durations(a / size["a"], 2 * a / size["a"], f / size["e"], 2 * f / size["e"], 0.0)
        return layers(num_layers, back)

    team: dict[str, Role] = {f"a{i}": "attention" for i in range(num_attention)}
    team |= {f"e{i}": "experts" for i in range(num_experts)}
    together: dict[str, Role] = {f"b{i}": "both" for i in range(num_workers)}
    excess = set()
    for num_microbatches in (4, 8, 16):
        colocated = timed(
            "colocated", num_layers, num_microbatches, cost({"a": num_workers, "e": num_workers}), together
        )
        split = timed("zebra", num_layers, num_microbatches, cost({"a": num_attention, "e": num_experts}), team)
        assert colocated.makespan_s == num_layers * num_microbatches * 3 * (a + f) / num_workers == bound_s(split)
        excess.add(split.makespan_s - bound_s(split))
    assert excess == {3 * a / num_attention}


def test_a_program_without_work_takes_no_time() -> None:
    trace = simulate([Program("a", "attention", ())], Durations(1, 1, 1, 1, 1))
    assert (trace.makespan_s, efficiency(trace), busy_s(trace, "a")) == (0.0, 1.0, 0.0)


KINDS = {"a": 1.0, "b": 1.3, "c": 0.7}


def by_kind(worker: str, operation: Operation) -> float:
    """Another time on each kind of workers (the letter behind the role's), site and micro-batch: sums are rounded."""
    part = 0.1 + 0.37 * operation.site + 0.011 * operation.microbatch + list(Kind).index(operation.kind) / 7
    return KINDS[worker[1]] * part


@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.lists(st.tuples(st.sampled_from("aeb"), st.sampled_from("abc")), min_size=1, max_size=7),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=150, deadline=None)
def test_workers_that_are_alike_are_simulated_once_to_the_same_bits(
    name: str, kinds: list[tuple[str, str]], num_sites: int, num_microbatches: int, latency_s: float
) -> None:
    words: dict[str, Role] = {"a": "attention", "e": "experts", "b": "both"}
    roles = {f"{role}{kind}{n}": words[role] for n, (role, kind) in enumerate(kinds)}
    given_roles = set(roles.values())
    assume("both" in given_roles or given_roles == {"attention", "experts"})
    assume(name != "colocated" or given_roles == {"both"})
    programs = make_programs(name, num_sites, num_microbatches, roles)
    computation, messages, makespan_s = simulate_plainly(programs, by_kind, latency_s)
    for alike in (None, lambda worker: worker[1]):
        trace = simulate(programs, by_kind, latency_s, alike)
        assert (trace.makespan_s, list(trace.computation)) == (makespan_s, computation)
        assert list(trace.messages) == messages


def test_a_thousand_workers_cost_no_more_than_eight() -> None:
    def num_costs(num_each: int) -> tuple[int, float]:
        asked: list[str] = []

        def cost(worker: str, operation: Operation) -> float:
            asked.append(worker)
            return by_kind(worker, operation)

        roles: dict[str, Role] = {f"{'ab'[n % 2]}{'ab'[n % 2]}{n}": "attention" for n in range(num_each)}
        roles |= {f"ec{n}": "experts" for n in range(num_each)}
        trace = simulate(make_programs("zebra", 3, 4, roles), cost, alike=lambda worker: worker[:2])
        return len(asked), trace.makespan_s

    assert num_costs(500) == num_costs(4)
