"""A mixture of sources is trained with the same bits on every layout and after a resume, and measured by source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dougong.data.windows import open_data
from dougong.errors import DataError
from dougong.job.schema import Job
from dougong.launcher.agent.facts import files_of
from dougong.training.start.preflight import inspect, preview
from dougong.training.start.sources import check_data
from tests.chats import chat_tokenizer, many, write_chats
from tests.families import config_values
from tests.jobs import make_job
from tests.reference import reference_model
from tests.test_fine_tuning import LR, VOCAB, forwards_of, mean_of_targets, run_layout
from tests.training.running import Order, digests, run

LENGTH = 32


def write_ids(path: Path, seed: int, num_tokens: int = 3000) -> str:
    np.random.default_rng(seed).integers(3, 30, num_tokens).astype("<u2").tofile(path)
    return str(path)


def mixed_job(folder: Path, **sections: Any) -> Job:
    """Chats, a text of documents by themselves, and ids."""
    tokenizer = str(chat_tokenizer(folder / "tokenizer"))
    write_chats(folder / "chats.jsonl", many(90))
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"text number {number}. " * (3 + number % 7))
    mixture = [
        {"chat": str(folder / "chats.jsonl"), "weight": 2.0},
        {"text": f"{folder}/*.txt", "weight": 1.0},
        {"tokens": write_ids(folder / "ids.bin", 3), "document_end": 9, "weight": 1.5},
    ]
    data = {
        "mixture": mixture,
        "tokenizer": tokenizer,
        "sequence_length": LENGTH,
        "document_masks": True,
        "packing": True,
    }
    base = {
        "model": {"family": "qwen3_moe", "config": config_values("qwen3_moe", vocab_size=VOCAB)},
        "batch": {"lanes": 3, "microbatches": 2, "microbatch_size": 2},
        "cache": str(folder / "cache"),
        "optimizer": {"name": "adamw", "lr": LR, "weight_decay": 0.0},
    }
    data |= sections.pop("data", {})
    return make_job(**(base | sections), data=data)


def test_three_layouts_have_the_same_bits_and_the_loss_is_that_of_all_targets(tmp_path: Path) -> None:
    job = mixed_job(tmp_path)
    alone = run_layout(job, "B")
    for layout in ("BBB", "AEE"):
        assert run_layout(job, layout) == alone
    data = open_data(job, VOCAB)
    read = {int(source) for source in data.mixture.blend.choose(np.arange(12))[0]}
    assert read == {0, 1, 2}
    with torch.no_grad():
        expected = float(mean_of_targets(reference_model(job).train(), data, 1))
    assert alone[0][0][0] == pytest.approx(expected, rel=1e-6)


def test_a_run_goes_on_in_the_middle_with_the_bits_of_one_that_was_never_stopped(tmp_path: Path) -> None:
    validation = {"fraction": 0.2, "every": 2, "batches": 1}
    batch = {"lanes": 3, "microbatches": 2, "microbatch_size": 1}
    job = mixed_job(tmp_path, steps=4, checkpoint={"every": 2}, batch=batch, data={"validation": validation})
    whole = run(Order(job, "BB", tmp_path / "whole"))
    resumed = run(Order(job, "AEB", tmp_path / "resumed", whole.committed[2], generation=2))
    assert not whole.errors and resumed.series() == {s: row for s, row in whole.series().items() if s > 2}
    assert digests(resumed.committed[4]) == digests(whole.committed[4])
    assert (
        resumed.rows[4]["val_by_source"] == whole.rows[4]["val_by_source"] and len(whole.rows[2]["val_by_source"]) == 3
    )


def test_the_validation_loss_in_the_whole_is_that_of_its_sources(tmp_path: Path) -> None:
    validation = {"fraction": 0.2, "every": 1, "batches": 2}
    job = mixed_job(tmp_path, steps=1, batch={"lanes": 2}, data={"validation": validation})
    row = run(Order(job, "B", tmp_path / "run")).rows[1]
    shares = open_data(job, VOCAB).held_out_shares
    assert row["val_loss"] == pytest.approx(
        sum(s * v for s, v in zip(shares, row["val_by_source"].values(), strict=True))
    )
    assert sum(shares) == pytest.approx(1.0) and len(set(row["val_by_source"].values())) == 3


def test_each_source_is_measured_over_all_targets_of_its_own(tmp_path: Path) -> None:
    validation = {"fraction": 0.2, "every": 1, "batches": 2}
    job = mixed_job(tmp_path, batch={"lanes": 2}, data={"validation": validation})
    model, data = reference_model(job), open_data(job, VOCAB)
    with torch.no_grad():
        rounds = list(forwards_of(job, model, range(2)).of_validation())
        model.eval()
        losses = [[float(forward.run()) for forward in by_lane.values()] for by_lane in rounds]
    for number in range(3):
        total, count = 0.0, 0
        for index in range(4 * number, 4 * number + 4):
            batch = data.validation_microbatch(index)
            ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
            with torch.no_grad():
                logits = model(input_ids=ids, position_ids=torch.from_numpy(batch.positions), use_cache=False).logits
            flat = logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1)
            total += float(torch.nn.functional.cross_entropy(*flat, reduction="sum"))
            count += int((labels[:, 1:] != -100).sum())
        mine = sum(losses[2 * number] + losses[2 * number + 1]) / 4
        assert mine == pytest.approx(total / count, rel=1e-5)


def test_a_look_before_a_run_tells_each_source_and_a_changed_one_ends_a_resume(tmp_path: Path) -> None:
    job = mixed_job(tmp_path, batch={"lanes": 2})
    looked = inspect(job)
    told = [note for note in looked.notes if note.startswith("data.mixture.")]
    assert [note.partition(":")[0] for note in told] == [f"data.mixture.{number}" for number in range(3)]
    assert "44.44 % of what is read" in told[0]
    assert looked.sources is not None and set(looked.sources.data_files) >= {str(tmp_path / "ids.bin")}
    assert set(files_of(job, begins=False)) == {str(tmp_path / "chats.jsonl"), str(tmp_path / "ids.bin")}
    line, _ = preview(job, looked.inventory)
    assert [part.split(":")[0].strip() for part in line.splitlines()[1:]] == [f"data.mixture.{n}" for n in range(3)]
    write_ids(tmp_path / "ids.bin", 4)
    data = open_data(job, VOCAB)
    with pytest.raises(DataError, match=r"data.mixture \(.*\): this run began with data of digest .*changed since: "):
        check_data(looked.sources, job, data.name, data.digest())
