"""Traces: a lane computed again on another layout gives the same checksums everywhere, and one flipped bit is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.job.schema import Job
from dougong.parallel.trace.trace_key import BACKWARD, FORWARD, SUMS, TraceKey, first_difference
from dougong.records.partial_run import PartialRun, StepTrace
from dougong.training import partial_run
from tests.families import config_values
from tests.jobs import make_job
from tests.training.flipping import Flip
from tests.training.running import Order, Outcome, run, token_file


def trace_job(folder: Path, precision: str = "float32") -> Job:
    data = {"tokens": str(token_file(folder)), "sequence_length": 16}
    batch = {"lanes": 4, "microbatches": 2, "microbatch_size": 1}
    model = {"family": "qwen3_moe", "config": config_values("qwen3_moe", initializer_range=0.3)}  # experts that matter
    return make_job(model=model, data=data, batch=batch, steps=4, precision=precision, checkpoint={"every": 0})


def traced(job: Job, roles: str, path: Path, step: int = 2, flip: Flip | None = None) -> tuple[Outcome, StepTrace]:
    path.mkdir()
    PartialRun(step, trace=step).write(path)
    outcome = run(Order(job, roles, path, train=flip.train if flip else partial_run.train))
    return outcome, StepTrace.read(path)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_lane_of_a_step_is_the_same_on_other_workers(precision: str, tmp_path: Path) -> None:
    """T11: lane 0 of two attention and two experts workers, and every other lane, again on one worker."""
    job = trace_job(tmp_path, precision)
    outcome, apart = traced(job, "AAEE", tmp_path / "apart")
    again, alone = traced(job, "B", tmp_path / "alone")
    leaves = {place for place in alone.found if place.direction == SUMS}
    assert {place.lane for place in leaves} == {0, 1, 2, 3} and len(leaves) > 4 * 20
    assert {p: apart.found[p] for p in leaves if p.lane == 0} == {p: alone.found[p] for p in leaves if p.lane == 0}
    assert apart.found == alone.found and apart.sites == alone.sites
    assert outcome.rows[2]["ledger"] == again.rows[2]["ledger"] and not outcome.committed


def test_what_a_trace_holds(tmp_path: Path) -> None:
    """Every lane, micro-batch and site, both ways; only the traced step, and no checkpoint but the one asked for."""
    job = trace_job(tmp_path)
    _, trace = traced(job, "B", tmp_path / "run")
    assert trace.sites == tuple(f"model.layers.{i}.mlp.experts" for i in range(3))
    for lane in range(4):
        for microbatch in range(2):
            mine = {p for p in trace.found if (p.lane, p.microbatch) == (lane, microbatch)}
            for what, direction in {
                "hidden": FORWARD,
                "choice": FORWARD,
                "doutput": BACKWARD,
                "dweights": BACKWARD,
            }.items():
                assert {p.site for p in mine if (p.what, p.direction) == (what, direction)} == {0, 1, 2}
            assert TraceKey(lane, microbatch, FORWARD, 3, "loss") in mine
            for site in range(3):
                served = {w: {p.part for p in mine if (p.site, p.what) == (site, w)} for w in ("outputs", "drows")}
                assert served["outputs"] == served["drows"] and len(served["outputs"]) > 1


@pytest.mark.parametrize("bit", [0, 14])
def test_a_flipped_bit_is_found_where_it_was_flipped(bit: int, tmp_path: Path) -> None:
    """T9: one bit of one number of one expert's answer to lane 2, at step 2. No metric would show it. The trace shows
    the place, down to the lowest bit (whose effect may round away on the spot), and nothing of other lanes differs;
    where the gradients felt it, the ledger shows the step."""
    job = trace_job(tmp_path)
    flip = Flip(step=2, lane=2, microbatch=1, site=1, bit=bit)
    wrong, spoilt = traced(job, "BB", tmp_path / "wrong", flip=flip)
    right, honest = traced(job, "AEE", tmp_path / "right")
    assert wrong.rows[2]["loss"] == pytest.approx(right.rows[2]["loss"], rel=1e-6)
    assert wrong.rows[1]["ledger"] == right.rows[1]["ledger"]
    assert bit == 0 or wrong.rows[2]["ledger"] != right.rows[2]["ledger"]
    place = first_difference(spoilt.found, honest.found)
    assert place is not None
    assert (place.lane, place.microbatch, place.direction, place.site, place.what) == (2, 1, FORWARD, 1, "outputs")
    assert place.describe(honest.sites) == (
        f"lane 2, micro-batch 1, forward, model.layers.1.mlp.experts, expert {place.part}: the outputs"
    )
    different = {p for p in honest.found if honest.found[p] != spoilt.found[p]}
    assert {p.lane for p in different} == {2} and {p.microbatch for p in different if p.direction != SUMS} == {1}


def test_a_part_of_a_run_ends_and_saves_as_it_is_asked(tmp_path: Path) -> None:
    job = trace_job(tmp_path)
    path = tmp_path / "run"
    path.mkdir()
    PartialRun(2, save=True).write(path)
    first = run(Order(job, "BB", path, train=partial_run.train))
    assert list(first.rows) == [1, 2] and list(first.committed) == [2] and not StepTrace.read(path).found
    PartialRun(4).write(path)
    second = run(Order(job, "AE", path, first.committed[2], generation=2, train=partial_run.train))
    assert list(second.rows) == [3, 4]
    whole, _ = traced(job, "B", tmp_path / "whole", step=4)
    assert second.rows[4]["ledger"] == whole.rows[4]["ledger"]
