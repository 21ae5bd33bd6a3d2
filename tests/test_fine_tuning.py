"""Chats are learnt with the same bits on every layout, and as by a plain loop that weighs every target the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.checkpoint.disk import digest
from dougong.data.windows import TokenWindows, open_data
from dougong.job.schema import Job
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.training.forwards import Forwards
from dougong.training.optimizers.lr_schedule import learning_rate
from tests.chats import chat_tokenizer, many, write_chats
from tests.families import config_values
from tests.jobs import make_job, make_rig, plan_for
from tests.processes import run_workers
from tests.reference import reference_model
from torch.nn.functional import cross_entropy

VOCAB, LR = 320, 1e-3
LAYOUTS = ("BBB", "AEE")
Found = tuple[list[tuple[float, float]], dict[str, str]]


def chat_job(folder: Path, family: str = "qwen3_moe", **data: Any) -> Job:
    chat_tokenizer(folder / "tokenizer")
    write_chats(folder / "chats.jsonl", many(60))
    section = {"chat": str(folder / "chats.jsonl"), "tokenizer": str(folder / "tokenizer"), "sequence_length": 128}
    return make_job(
        model={"family": family, "config": config_values(family, vocab_size=VOCAB)},
        data={**section, **data},
        batch={"lanes": 3, "microbatches": 2, "microbatch_size": 2},
        cache=str(folder / "cache"),
        optimizer={"name": "adamw", "lr": LR, "weight_decay": 0.0},
    )


def forwards_of(job: Job, model: Any, lanes: Sequence[int]) -> Forwards:
    return Forwards(job, open_data(job, VOCAB), model, lanes, torch.device("cpu"))


def trained(world: World, plan: Plan, job: Job) -> Found:
    """Three steps on the job's own data: losses and gradients' norms, and a digest of every tensor that this worker
    owns."""
    rig = make_rig(job, plan, world)
    forwards = forwards_of(job, rig.replica.model, plan.workers[world.rank].lanes)
    steps = [rig.stepper.run(step, forwards.of_step(step)) for step in range(1, 4)]
    digests = {name: digest(tensor.numpy().tobytes()) for name, tensor in rig.replica.masters.items()}
    return [(step.loss, step.grad_norm) for step in steps], digests


def run_layout(job: Job, layout: str) -> Found:
    results = run_workers(trained, plan_for(job, layout), job)
    merged: dict[str, str] = {}
    for losses, digests in results:
        assert losses == results[0][0]
        merged |= digests
    return results[0][0], merged


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_three_layouts_have_the_same_bits(packing: bool, tmp_path: Path) -> None:
    job = chat_job(tmp_path, packing=packing)
    alone = run_layout(job, "B")
    for layout in LAYOUTS:
        assert run_layout(job, layout) == alone
    other = run_layout(chat_job(tmp_path, packing=not packing), "B")
    assert other[0] != alone[0]


def mean_of_targets(model: Any, data: TokenWindows, step: int) -> torch.Tensor:
    """The definition: over all target tokens of a step, whatever lane and micro-batch they lie in."""
    total, count = torch.zeros(()), 0
    for lane in range(data.lanes):
        for microbatch in range(data.microbatches):
            batch = data.microbatch(step, lane, microbatch)
            assert batch.labels is not None
            positions = None if batch.positions is None else torch.from_numpy(batch.positions)
            ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
            logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
            shifted = labels[:, 1:].reshape(-1)
            total = total + cross_entropy(logits[:, :-1].reshape(-1, VOCAB), shifted, reduction="sum")
            count += int((shifted != -100).sum())
    return total / count


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_losses_are_those_of_a_plain_loop_over_all_target_tokens(packing: bool, tmp_path: Path) -> None:
    job = chat_job(tmp_path, packing=packing)
    steps, _ = run_layout(job, "BBB")
    model = reference_model(job).train()
    data = open_data(job, VOCAB)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    for step, (ours, our_norm) in enumerate(steps, 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(job.schedule, LR, step, job.steps)
        optimizer.zero_grad()
        loss = mean_of_targets(model, data, step)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), job.optimizer.clip_norm or 1e9))
        # AdamW's first updates are as large where a gradient is all rounding.
        near = 1e-6 if step == 1 else 1e-3
        assert float(loss.detach()) == pytest.approx(ours, rel=near) and norm == pytest.approx(our_norm, rel=10 * near)
        optimizer.step()


def test_micro_batches_with_few_targets_weigh_little(tmp_path: Path) -> None:
    """The mean over micro-batches of transformers' own losses, each a mean of its targets, is another number."""
    job = chat_job(tmp_path)
    model, data = reference_model(job).eval(), open_data(job, VOCAB)
    forwards = forwards_of(job, model, range(3)).of_step(1)
    with torch.no_grad():
        ours = [float(forwards(m)[lane].run()) for lane in range(3) for m in range(2)]
        exact = float(mean_of_targets(model, data, 1))
        batches = [data.microbatch(1, lane, m) for lane in range(3) for m in range(2)]
        each = [
            float(model(input_ids=torch.from_numpy(b.ids), labels=torch.from_numpy(b.labels), use_cache=False).loss)
            for b in batches
        ]
    assert sum(ours) / 6 == pytest.approx(exact, abs=1e-6)
    assert abs(sum(each) / 6 - exact) > 2e-5


def test_packed_chats_are_those_that_lie_alone(tmp_path: Path) -> None:
    """The same targets, each with the loss that it has in a sequence of its own."""
    job = chat_job(tmp_path)
    model = reference_model(job).eval()
    sums, num_sequences = [], []
    for packing in (False, True):
        data = open_data(chat_job(tmp_path, packing=packing), VOCAB)
        assert data.mixture.sources[0].marks is not None
        num_sequences.append(data.num_windows)
        every = dataclasses.replace(data, lanes=1, microbatches=1, microbatch_size=data.num_windows)
        with torch.no_grad():
            mean = float(mean_of_targets(model, every, 1))
        sums.append((mean, data.mixture.sources[0].marks.counts.ids.sum()))
    assert num_sequences[1] < num_sequences[0]
    assert sums[0][1] == sums[1][1] and sums[0][0] == pytest.approx(sums[1][0], rel=1e-5)


def test_held_out_chats_are_weighed_alike(tmp_path: Path) -> None:
    validation = {"fraction": 0.2, "every": 1, "batches": 2}
    job = chat_job(tmp_path, validation=validation)
    model, data = reference_model(job), open_data(job, VOCAB)
    with torch.no_grad():
        rounds = list(forwards_of(job, model, range(3)).of_validation())
        model.eval()
        losses = [float(forward.run()) for by_lane in rounds for forward in by_lane.values()]
    targets = [data.validation_microbatch(index) for index in range(6)]
    total, count = 0.0, 0
    for batch in targets:
        labels = torch.from_numpy(batch.labels)
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(batch.ids), use_cache=False).logits
        total += float(cross_entropy(logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1), reduction="sum"))
        count += int((labels[:, 1:] != -100).sum())
    assert sum(losses) / 6 == pytest.approx(total / count, rel=1e-5)


def test_a_worker_is_put_together_with_chats(tmp_path: Path) -> None:
    rig = make_rig(chat_job(tmp_path))
    assert rig.replica.masters
