"""Each document of a stream is learnt by itself: the same bits on every layout, and as by a plain loop over the
documents one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dougong.data.samples.marks import IGNORED
from dougong.data.windows import open_data
from dougong.errors import DataError, ModelError
from dougong.job.schema import Job
from dougong.training.optimizers.lr_schedule import learning_rate
from dougong.training.start.preflight import inspect_only
from tests.families import config_values
from tests.jobs import make_job
from tests.reference import reference_model
from tests.test_fine_tuning import LR, VOCAB, forwards_of, run_layout
from tests.training.running import Order, digests, run
from torch.nn.functional import cross_entropy

END, LENGTH = 9, 24


def write_ids(path: Path, num_tokens: int = 3000) -> Path:
    """Made-up ids 3 .. 29, of which one in 27 ends a document."""
    np.random.default_rng(3).integers(3, 30, num_tokens).astype("<u2").tofile(path)
    return path


def masked_job(folder: Path, masks: bool = True, **sections: Any) -> Job:
    data = {"tokens": str(write_ids(folder / "ids.bin")), "sequence_length": LENGTH}
    data |= {"document_masks": True, "document_end": END} if masks else {}
    base = {
        "model": {"family": "qwen3_moe", "config": config_values("qwen3_moe", vocab_size=VOCAB)},
        "batch": {"lanes": 3, "microbatches": 2, "microbatch_size": 2},
        "cache": str(folder / "cache"),
        "optimizer": {"name": "adamw", "lr": LR, "weight_decay": 0.0},
    }
    data |= sections.pop("data", {})
    return make_job(**(base | sections), data=data)


def test_three_layouts_have_the_same_bits(tmp_path: Path) -> None:
    job = masked_job(tmp_path)
    alone = run_layout(job, "B")
    for layout in ("BBB", "AEE"):
        assert run_layout(job, layout) == alone
    assert run_layout(masked_job(tmp_path, masks=False), "B")[0] != alone[0]


def pieces(row: npt.NDArray[np.int64]) -> Iterator[torch.Tensor]:
    """What a window has of each document, by the id that ends them."""
    cuts = [0, *(np.flatnonzero(row == END) + 1).tolist(), row.size]
    yield from (torch.from_numpy(row[first:last]) for first, last in itertools.pairwise(cuts) if last - first > 1)


def mean_of_pieces(model: Any, rows: Iterable[npt.NDArray[np.int64]]) -> torch.Tensor:
    """The definition: over all tokens that another one of their document foretells."""
    total, count = torch.zeros(()), 0
    for ids in itertools.chain.from_iterable(map(pieces, rows)):
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        total = total + cross_entropy(logits[:-1], ids[1:], reduction="sum")
        count += ids.numel() - 1
    return total / count


def test_losses_are_those_of_a_plain_loop_over_the_documents_one_by_one(tmp_path: Path) -> None:
    job = masked_job(tmp_path)
    steps, _ = run_layout(job, "BBB")
    model, data = reference_model(job).train(), open_data(job, VOCAB)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    for step, (ours, our_norm) in enumerate(steps, 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(job.schedule, LR, step, job.steps)
        optimizer.zero_grad()
        places = [(lane, m) for lane in range(data.lanes) for m in range(data.microbatches)]
        loss = mean_of_pieces(model, [row for place in places for row in data.batch(step, *place)])
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), job.optimizer.clip_norm or 1e9))
        # AdamW's first updates are as large where a gradient is all rounding.
        near = 1e-6 if step == 1 else 1e-3
        assert float(loss.detach()) == pytest.approx(ours, rel=near) and norm == pytest.approx(our_norm, rel=10 * near)
        optimizer.step()


def test_held_out_documents_are_by_themselves_too(tmp_path: Path) -> None:
    job = masked_job(tmp_path, data={"validation": {"fraction": 0.2, "every": 1, "batches": 2}})
    model, data = reference_model(job), open_data(job, VOCAB)
    with torch.no_grad():
        rounds = list(forwards_of(job, model, range(3)).of_validation())
        model.eval()
        ours = [float(forward.run()) for by_lane in rounds for forward in by_lane.values()]
        rows = [row for index in range(6) for row in data.validation_batch(index)]
        expected = float(mean_of_pieces(model, rows))
    assert sum(ours) / 6 == pytest.approx(expected, rel=1e-5)


def test_a_run_goes_on_with_the_bits_of_one_that_was_never_stopped(tmp_path: Path) -> None:
    validation = {"fraction": 0.2, "every": 2, "batches": 1}
    job = masked_job(tmp_path, steps=4, checkpoint={"every": 2}, data={"validation": validation})
    whole = run(Order(job, "BB", tmp_path / "whole"))
    resumed = run(Order(job, "AEB", tmp_path / "resumed", whole.committed[2], generation=2))
    assert not whole.errors and resumed.series() == {s: row for s, row in whole.series().items() if s > 2}
    assert digests(resumed.committed[4]) == digests(whole.committed[4])


def test_a_window_without_a_target_is_no_nan_and_a_step_without_one_is_refused(tmp_path: Path) -> None:
    ids = np.full(40 * LENGTH, END, dtype="<u2")
    ids[: 20 * LENGTH] = np.arange(20 * LENGTH) % 5 + 3
    job = masked_job(tmp_path)
    ids.tofile(tmp_path / "ids.bin")
    data, forwards = open_data(job, VOCAB), forwards_of(job, reference_model(job), range(3)).of_step(1)
    batches = [data.microbatch(1, lane, m) for lane in range(3) for m in range(2)]
    rows = [int((row != IGNORED).sum()) for batch in batches if batch.labels is not None for row in batch.labels]
    assert 0 in rows and max(rows) == LENGTH - 1
    with torch.no_grad():
        losses = [float(forward.run()) for m in range(2) for forward in forwards(m).values()]
    assert np.isfinite(losses).all()
    ids[:] = END
    ids.tofile(tmp_path / "ids.bin")
    with pytest.raises(DataError, match=r"ids.bin: step 1 would learn nothing: every document there is one token long"):
        open_data(job, VOCAB)


def test_flash_attention_is_none_for_documents_of_several_sequences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers then looks at positions in micro-batches of one sequence alone."""
    job = masked_job(tmp_path)
    monkeypatch.setattr("dougong.models.inventory.forms_to_try", lambda *_: ("flash", "sdpa"))
    assert inspect_only(job).attention == ("sdpa",)
    one = job.model_copy(update={"batch": job.batch.model_copy(update={"microbatch_size": 1})})
    assert inspect_only(one).attention == ("flash", "sdpa")
    monkeypatch.setattr("dougong.models.inventory.forms_to_try", lambda *_: ("flash",))
    with pytest.raises(ModelError, match=r"model.attention: transformers' flash attention tells documents apart"):
        inspect_only(job)
