"""The sentence that refuses a plan."""

from __future__ import annotations

from dougong.planner.needs.refusal import gb, listed, together, too_large
from dougong.planner.needs.remedies import Remedies
from dougong.planner.needs.terms import Term, WorkerMemory
from tests.planner.test_plan_job import job_of, plan_of

MEMORY = WorkerMemory(
    {Term.WEIGHTS: 10**9, Term.MOMENTS: 5 * 10**8}, {"step": {Term.ACTIVATIONS: 3 * 10**9}}, {Term.STAGING: 10**9}
)

JOB = job_of()
REMEDIES = Remedies(JOB, plan_of(JOB))


def test_it_has_the_peak_all_terms_and_the_keys_of_the_largest() -> None:
    said = too_large("a/0", MEMORY, "the device has", 4e9, REMEDIES)
    assert said.startswith(
        "a/0 needs 4.5 GB at its peak (step), and the device has 4 GB: activations 3 GB, weights 1 GB, moments 0.5 GB; "
        "of activations: set recompute: layers"
    )
    assert "of weights" not in said and "of moments" not in said


def test_terms_of_which_none_is_a_quarter_have_the_advice_of_the_largest() -> None:
    terms = dict.fromkeys(list(Term)[:6], 10) | {Term.STAGING: 11}
    assert REMEDIES.advice(terms).startswith("of a checkpoint that is being written: ")
    assert listed({Term.UPDATE: 1, Term.LINKS: 2}).startswith("memory for copies to the device")


def test_a_machine_s_memory_holds_what_lies_beside_the_device() -> None:
    assert sum(together([MEMORY, MEMORY], with_host=False).values()) == 9 * 10**9
    assert together([MEMORY, MEMORY], with_host=True)[Term.STAGING] == 2 * 10**9
    assert (gb(942.4e9), gb(1.234e9)) == ("942 GB", "1.23 GB")


def test_the_largest_unit_of_what_comes_and_goes_is_named() -> None:
    memory = WorkerMemory({Term.WEIGHTS: 10**9}, unit=("model.layers.3", 7 * 10**8))
    text = too_large("east/0", memory, "a device has", 5e8, REMEDIES)
    assert "weights 1 GB (of what comes and goes model.layers.3 has most, 0.7 GB of weights); of weights: " in text
