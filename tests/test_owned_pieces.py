"""Large dense tensors that are owned in pieces: the bits of whole ones but for the norm, the same on every layout, and
checkpoints that anybody reads as whole tensors. Here a piece is small: plans are made in this process, and workers know
of pieces what their plan says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.checkpoint.export import export
from dougong.checkpoint.manifest import MODEL_GROUP, Manifest
from dougong.checkpoint.verify import verify
from dougong.errors import CorruptionError, PeerError
from dougong.job.schema import Job
from dougong.parallel import pieces
from dougong.parallel.comm.world import World
from dougong.parallel.pieces import piece_named, tensor_of
from dougong.parallel.plan import Plan
from dougong.tools.checkpoint_diff import diff_checkpoints
from dougong.training.drill.spoiler import flip_bit
from dougong.training.state import state_of
from safetensors.torch import load_file
from tests.families import config_values
from tests.jobs import Rig, make_job, make_rig, plan_for
from tests.processes import run_workers
from tests.test_recompute import bits_of_layout
from tests.test_sharded_dense import flipped, run_job
from tests.training.running import Order, Outcome, digests, run

PIECE = 1024
"""Of the test models' matrices most are cut, the embedding in 16; and some end behind a last piece that is shorter."""
LAYOUTS = ("BB", "BBBB", "AAE", "AE")
WITHOUT_CLIPPING = {"optimizer": {"name": "adamw", "lr": 1e-2, "clip_norm": None}}
"""What the norm is taken of does not show then."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_NUMEL", PIECE)


def whole_plan(job: Job, roles: str = "B") -> Plan:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_NUMEL", 1 << 24)
        return plan_for(job, roles)


State = dict[tuple[str, str, int], bytes]


def flat_state(rig: Rig) -> State:
    """By kind, tensor and first element."""
    found: State = {}
    for item in state_of(rig.replica, rig.stepper.optimizer):
        piece = piece_named(item.name)
        key = (item.group, tensor_of(item.name), 0 if piece is None else piece.begin)
        found[key] = item.tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
    return found


def joined(states: list[State]) -> dict[tuple[str, str], str]:
    """Digests of whole tensors. Numbers, which every piece has, once."""
    parts: dict[tuple[str, str], list[bytes]] = {}
    together: State = {key: value for state in states for key, value in state.items()}
    assert len(together) == sum(map(len, states)), "a piece has two owners"
    for (group, name, begin), value in sorted(together.items(), key=lambda item: item[0]):
        if group != "step" or begin == 0:
            parts.setdefault((group, name), []).append(value)
    return {key: hashlib.sha256(b"".join(its)).hexdigest() for key, its in parts.items()}


def trained(world: World, plan: Plan, jobs: list[Job]) -> list[tuple[list[float], State]]:
    found = []
    for job in jobs:
        rig = make_rig(job, plan, world)
        found.append((rig.run(3), flat_state(rig)))
        rig.stepper.close()
    return found


WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "half state": {"optimizer": {**WITHOUT_CLIPPING["optimizer"], "state": "bfloat16"}},
    "host": {"optimizer": {**WITHOUT_CLIPPING["optimizer"], "device": "host"}},
    "native sums": {"determinism": "run"},
}


@pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("dense", ["copy", "shard"])
def test_updates_by_the_piece_have_the_bits_of_whole_tensors(dense: str, changes: dict[str, Any], small: None) -> None:
    job = make_job(**{"pipeline": "zebra", "dense": dense} | WITHOUT_CLIPPING | changes)
    ((losses, state),) = trained(World.alone(), whole_plan(job), [job])
    plan = plan_for(job)
    assert len(plan.owners) > 2 * len(whole_plan(job).owners)
    ((same_losses, same_state),) = trained(World.alone(), plan, [job])
    assert same_losses == losses
    assert len(same_state) > len(state) and joined([same_state]) == joined([state])


def test_matrices_decay_and_long_vectors_do_not(small: None) -> None:
    job = make_job(optimizer={"name": "adamw", "lr": 1e-2, "weight_decay": 0.5})
    rig = make_rig(job)
    before = flat_state(rig)
    zeros = {name: torch.zeros_like(rig.replica.masters[name]) for name in rig.stepper.optimizer.names}
    rig.stepper.optimizer.step(zeros, 1e-1)
    for key, value in flat_state(rig).items():
        if key[0] == MODEL_GROUP and key[1] in rig.replica.trainable:
            is_matrix = rig.stepper.parts.share.blueprint.model.get_parameter(key[1]).dim() >= 2
            assert (value == before[key]) != (is_matrix and any(before[key])), key


@pytest.mark.parametrize("layouts", [("BBB",), pytest.param(LAYOUTS, marks=pytest.mark.slow)], ids=["three", "others"])
@pytest.mark.parametrize("dense", ["copy", "shard"])
def test_every_layout_has_the_same_bits(dense: str, layouts: tuple[str, ...], small: None) -> None:
    """Clipped by a norm that is taken by the piece; on two to four workers lanes are uneven."""
    batch = {"lanes": 5, "microbatches": 2, "microbatch_size": 1}
    precisions = ("float32", "bfloat16")
    jobs = [make_job(pipeline="zebra", dense=dense, batch=batch, precision=precision) for precision in precisions]
    due = [(losses, joined([state])) for losses, state in trained(World.alone(), plan_for(jobs[0]), jobs)]
    for layout in layouts:
        plan = plan_for(jobs[0], layout)
        by_worker = run_workers(trained, plan, jobs)
        for number in range(len(jobs)):
            of_job = [of_worker[number] for of_worker in by_worker]
            assert {tuple(losses) for losses, _ in of_job} == {tuple(due[number][0])}, layout
            assert joined([state for _, state in of_job]) == due[number][1], layout
        if layout.count("B") > 1:
            owners = {plan.owners[name] for name in plan.owners if name.startswith("model.embed_tokens.weight[")}
            assert owners == set(range(len(plan.workers)))


@pytest.mark.parametrize(
    "family", ["deepseek_v3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt_oss", "qwen3_next"))]
)
def test_gradients_of_other_families_are_the_same_on_every_layout(family: str, small: None) -> None:
    job = make_job(family, pipeline="zebra", dense="shard")
    (due,) = bits_of_layout("B", [job])
    assert sum(piece_named(name) is not None for name in due[1]) > 10
    for layout in ("BB", "AE"):
        assert bits_of_layout(layout, [job]) == [due]


@pytest.mark.parametrize("dense", ["copy", "shard"])
def test_a_piece_that_comes_with_another_bit_ends_the_step_with_its_name(dense: str, small: None) -> None:
    changes = {"dense": dense, "pipeline": "zebra", "fault": {"snapshots": {"every": 0}}}
    job = make_job(batch={"lanes": 3, "microbatches": 2, "microbatch_size": 1}, **changes)
    found = run_workers(flipped if dense == "shard" else spread_wrongly, plan_for(job, "BBB"), job)
    told = [text for text in found if "] is not the same on its owner" in text]
    assert len(told) == 1 and "the weight model.embed_tokens.weight[" in told[0], found
    assert all("nobody" not in text for text in found)


def spread_wrongly(world: World, plan: Plan, job: Job) -> str:
    """A worker gets another bit of a piece in the first step's spread of weights."""
    rig = make_rig(job, plan, world)
    name = "model.embed_tokens.weight[0:1024]"
    if plan.owners[name] != world.rank == (plan.owners[name] + 1) % 3:
        spoil_behind(rig, name)
    try:
        for step in (1, 2):
            rig.stepper.run(step, rig.forwards(step))
    except (CorruptionError, PeerError) as error:
        return str(error)
    return "nobody has seen it"


def spoil_behind(rig: Rig, name: str) -> None:
    """Before the guard notes what this worker has, which is what it has got."""
    guard: Any = rig.stepper.parts.guard
    honest = guard.note

    def note() -> None:
        flip_bit(dict(rig.replica.owned_dense)[name])
        guard.note = honest
        honest()

    guard.note = note


# ---------------------------------------------------------------------------------------------------------------------
# Whole runs, and what they leave


def digests_of_model(checkpoint: Path) -> dict[str, str]:
    """Of whole tensors, as another program reads them."""
    found = {}
    for file in sorted((checkpoint / "model").glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            assert name not in found
            found[name] = hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
    return found


def equal_from(later: Outcome, whole: Outcome, step: int) -> bool:
    return later.series() == {s: values for s, values in whole.series().items() if s > step}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"precision": "bfloat16", "dense": "shard", "fault": {"audit": "all"}},
    ],
    ids=["copies", "shards, audited"],
)
def test_a_run_in_pieces_is_read_by_anybody_and_goes_on_on_any_layout(
    changes: dict[str, Any], small: None, tmp_path: Path
) -> None:
    """With validation, clipping, snapshots, the guard and the ledger."""
    job = run_job(tmp_path, **changes)
    alone = run(Order(job, "B", tmp_path / "alone"))
    assert not alone.errors and list(alone.rows) == list(range(1, 7))
    three = run(Order(job, "BBB", tmp_path / "three"))
    assert not three.errors and three.series() == alone.series()
    assert [row["ledger"] for row in three.rows.values()] == [row["ledger"] for row in alone.rows.values()]
    assert digests(three.committed[6]) == digests(alone.committed[6])
    found = verify(three.committed[6])
    assert found.ok and not found.remarks, str(found)
    spans = [entry for _, entry in Manifest.load(three.committed[6]).entries() if entry.span is not None]
    assert len(spans) > 100 and {entry.group for entry in spans} == {MODEL_GROUP, "step", "exp_avg", "exp_avg_sq"}
    for roles, start in (("AAE", alone), ("BB", three), ("B", three)):
        later = run(Order(job, roles, tmp_path / f"{roles}-later", start.committed[2], generation=2))
        assert not later.errors and equal_from(later, alone, 2), roles
        assert digests(later.committed[6]) == digests(alone.committed[6])


def test_checkpoints_of_whole_tensors_go_on_in_pieces_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an older release has written; and pieces that end elsewhere. Without clipping all have the same bits."""
    job = run_job(tmp_path, **WITHOUT_CLIPPING)
    old = run(Order(job, "BB", tmp_path / "old"))
    start, last = old.committed[2], old.committed[6]
    assert all(entry.span is None for _, entry in Manifest.load(last).entries())
    rows = {step: row["loss"] for step, row in old.rows.items()}
    for number, (length, roles, step) in enumerate(((PIECE, "BBB", 2), (768, "AE", 4), (1 << 24, "BB", 4))):
        monkeypatch.setattr(pieces, "PIECE_NUMEL", length)
        later = run(Order(job, roles, tmp_path / str(number), start, generation=2 + number))
        assert not later.errors
        assert {s: row["loss"] for s, row in later.rows.items()} == {s: loss for s, loss in rows.items() if s > step}
        is_cut = any(entry.span is not None for _, entry in Manifest.load(later.committed[6]).entries())
        assert is_cut == (length < 1 << 24)
        assert not diff_checkpoints(last, later.committed[6]).differences, (length, roles)
        assert digests_of_model(later.committed[6]) == digests_of_model(last)
        export(later.committed[6], tmp_path / f"exported-{number}")
        whole = load_file(tmp_path / f"exported-{number}" / "model.safetensors")
        assert {n: hashlib.sha256(t.numpy().tobytes()).hexdigest() for n, t in whole.items()} == digests_of_model(last)
        start = later.committed.get(4, start)


@pytest.mark.slow
def test_a_tensor_of_more_than_2_to_the_24_elements_is_cut_without_being_asked(tmp_path: Path) -> None:
    """An embedding of 16.8M elements, and a head of as many: two pieces each, the second a short one."""
    config = config_values("qwen3_moe", vocab_size=262400)
    job = run_job(tmp_path, model={"family": "qwen3_moe", "config": config}, steps=2)
    (tmp_path / "tokens.bin.json").write_text('{"dtype": "uint16"}')
    found = [run(Order(job, roles, tmp_path / roles)) for roles in ("B", "BB")]
    assert not found[0].errors and not found[1].errors and found[0].series() == found[1].series()
    assert digests(found[0].committed[2]) == digests(found[1].committed[2])
    spans = [entry.label for _, entry in Manifest.load(found[1].committed[2]).entries() if entry.span is not None]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert f"{name}[0:16777216]" in spans and f"{name}[16777216:16793600]" in spans
    assert len(spans) == 4 * 4, "weight, two moments and a count of each piece"
