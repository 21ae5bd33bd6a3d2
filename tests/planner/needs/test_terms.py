"""Terms of memory, and the peak that they make together."""

from __future__ import annotations

from dougong.planner.needs.terms import Term, WorkerMemory, added


def test_the_peak_is_that_of_the_largest_phase_and_not_the_sum_of_all() -> None:
    always = {Term.WEIGHTS: 10, Term.GRADIENTS: 5, Term.SCRATCH: 1}
    phases = {"step": {Term.ACTIVATIONS: 7}, "update": {Term.UPDATE: 3, Term.CHECKS: 2}}
    memory = WorkerMemory(always, phases, {Term.STAGING: 4})
    assert (memory.state, memory.peak, memory.top, memory.on_host) == (15, 23, "step", 4)
    assert memory.at_peak == always | {Term.ACTIVATIONS: 7}


def test_what_is_nothing_is_not_there() -> None:
    assert added([{Term.MOMENTS: 1, Term.AUDITS: 0}, {Term.MOMENTS: 2}]) == {Term.MOMENTS: 3}
    assert WorkerMemory({}).peak == 0 and not WorkerMemory({}).top


def test_each_term_has_a_name_of_its_own() -> None:
    assert len({term.words for term in Term}) == len(Term)
