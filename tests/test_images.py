"""Chats with images are learnt with the same bits on every layout, and as transformers' own model takes them."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from dougong.data.samples.image_batch import ImageBatch
from dougong.data.windows import open_data
from dougong.errors import DataError
from dougong.job.schema import Job
from dougong.records.directory import RunDir
from dougong.training.forwards import Forwards
from tests.chats import many, write_chats
from tests.data.processors import processor_of
from tests.jobs import make_job
from tests.pictures import look, picture, seeing_folder, seeing_model
from tests.reference import reference_model
from tests.test_fine_tuning import run_layout
from torch.nn.functional import cross_entropy

FAMILIES = ("qwen3_vl_moe", "glm4v_moe", "qwen3_5_moe")
VOCAB = 330
ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 150


def seeing_job(folder: Path, family: str, **changes: Any) -> Job:
    """Chats with no image, one, and several in a message, mixed in every micro-batch."""
    tokenizer = seeing_folder(folder / "tokenizer", family)
    for number in range(6):
        picture(folder / f"images/{number}.png", 16 + 8 * number, 28, number)
    rows = [
        row
        for number in range(5)
        for row in (
            look("what is", f"images/{number}.png", "?"),
            *many(2),
            look(f"images/{number}.png", " and ", "images/5.png", "do they differ?"),
            look(f"images/{number}.png"),
        )
    ]
    data = {"chat": str(write_chats(folder / "chats.jsonl", rows)), "tokenizer": str(tokenizer), "sequence_length": 96}
    sections = {
        "model": seeing_model(family, folder / "model", tokenizer, VOCAB),
        "batch": {"lanes": 3, "microbatches": 2, "microbatch_size": 2},
        "cache": str(folder / "cache"),
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0},
    }
    return make_job(**{**sections, **changes, "data": {**data, **changes.get("data", {})}})


def forwards_of(job: Job, model: Any, lanes: Sequence[int]) -> Forwards:
    return Forwards(job, open_data(job, VOCAB), model, lanes, torch.device("cpu"))


@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_have_the_same_bits(family: str, tmp_path: Path) -> None:
    job = seeing_job(tmp_path, family)
    alone = run_layout(job, "B")
    for layout in ("BBB", "AEE"):
        assert run_layout(job, layout) == alone
    blind = run_layout(without_images(job, tmp_path), "B")
    assert blind[0] != alone[0]


def as_asked(images: ImageBatch | None) -> dict[str, torch.Tensor]:
    """By the names that transformers' models have for them."""
    if images is None:
        return {}
    return {
        "pixel_values": torch.from_numpy(images.pixels),
        "image_grid_thw": torch.from_numpy(images.grids),
        "mm_token_type_ids": torch.from_numpy(images.kinds),
    }


def without_images(job: Job, folder: Path) -> Job:
    """The same rows with a text in the place of each image."""
    text = (folder / "chats.jsonl").read_text()
    for number in range(6):
        name = f"images/{number}.png"
        text = text.replace(f'{{"type": "image", "image": "{name}"}}', f'{{"type": "text", "text": "{name}"}}')
    (folder / "blind.jsonl").write_text(text)
    data = job.data.model_copy(update={"chat": str(folder / "blind.jsonl")})
    return job.model_copy(update={"data": data})


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_layers_and_sharded_tensors_have_them_too(family: str, tmp_path: Path) -> None:
    expected = run_layout(seeing_job(tmp_path, family, precision="bfloat16"), "B")
    found = run_layout(seeing_job(tmp_path, family, precision="bfloat16", recompute="layers", dense="shard"), "ABE")
    assert found == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_transformers_own_bit_by_bit(family: str, tmp_path: Path) -> None:
    """Of its ForConditionalGeneration, given what its processor gives."""
    job = seeing_job(tmp_path, family)
    model, data = reference_model(job).train(), open_data(job, VOCAB)
    assert type(model).__name__.endswith("ForConditionalGeneration")
    forwards = forwards_of(job, model, range(3)).of_step(1)
    seen = 0
    for lane, microbatch in itertools.product(range(3), range(2)):
        batch = data.microbatch(1, lane, microbatch)
        given = {"input_ids": torch.from_numpy(batch.ids), "labels": torch.from_numpy(batch.labels)}
        seen += 0 if batch.images is None else len(batch.images.grids)
        given |= as_asked(batch.images)
        with torch.no_grad():
            ours = forwards(microbatch)[lane].run()
            theirs = model(**given, num_items_in_batch=batch.num_targets, use_cache=False).loss
        assert torch.equal(ours, theirs)
    assert seen > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing_of_a_chat(family: str, tmp_path: Path) -> None:
    """Logits of a row among others, of which it is not the longest, are those of its tokens alone, given what
    transformers' processor gives of it."""
    job = seeing_job(tmp_path, family)
    model, data = reference_model(job).eval(), open_data(job, VOCAB)
    processor = processor_of(family, tmp_path / "tokenizer")
    rows = [json.loads(line)["messages"] for line in (tmp_path / "chats.jsonl").read_text().splitlines()]
    for messages in rows[:4]:
        for part in messages[0]["content"]:
            if isinstance(part, dict) and "image" in part:
                part["image"] = str(tmp_path / part["image"])
    (source,) = data.mixture.sources
    ids = np.stack([source.tokens.read(96 * row, 96) for row in range(4)])
    assert source.marks is not None
    images = source.marks.images_of(ids, np.arange(4))
    with torch.no_grad():
        together = model(input_ids=torch.from_numpy(ids), **as_asked(images)).logits
        for row, messages in enumerate(rows[:4]):
            alone = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
            logits = model(**alone).logits[0]
            torch.testing.assert_close(together[row, : len(logits)], logits, atol=2e-5, rtol=1e-4)


def test_held_out_chats_have_their_images(tmp_path: Path) -> None:
    job = seeing_job(tmp_path, "glm4v_moe", data={"validation": {"fraction": 0.3, "every": 1, "batches": 1}})
    model, data = reference_model(job), open_data(job, VOCAB)
    batches = [data.validation_microbatch(index) for index in range(3)]
    assert any(batch.images is not None for batch in batches)
    with torch.no_grad():
        (by_lane,) = forwards_of(job, model, range(3)).of_validation()
        model.eval()
        losses = [float(by_lane[lane].run()) for lane in range(3)]
    total, count = 0.0, 0
    for batch in batches:
        labels = torch.from_numpy(batch.labels)
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(batch.ids), use_cache=False, **as_asked(batch.images)).logits
        total += float(cross_entropy(logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1), reduction="sum"))
        count += int((labels[:, 1:] != -100).sum())
    assert sum(losses) / 3 == pytest.approx(total / count, rel=1e-5)


def dougong(*words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "dougong", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S)
    return done.returncode, done.stdout + done.stderr


def test_a_run_goes_on_with_the_same_bits_and_not_with_another_image(tmp_path: Path) -> None:
    job = seeing_job(tmp_path, "qwen3_vl_moe")
    values = {
        "job": "seen",
        "model": {"family": "qwen3_vl_moe", "config": dict(job.model.config)},
        "data": {"chat": "chats.jsonl", "tokenizer": "tokenizer", "sequence_length": 96},
        "batch": {"lanes": 2, "microbatches": 2, "microbatch_size": 2},
        "steps": 4,
        "checkpoint": {"every": 2},
        "islands": [
            {"name": "east", "accelerator": "cpu", "role": "attention", "workers": 1},
            {"name": "west", "accelerator": "cpu", "role": "experts", "workers": 1},
        ],
        "drill": [{"at_step": 4, "kill": "east/0"}],
        "fault": {"snapshots": {"every": 0}},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    code, told = dougong("plan", str(tmp_path / "job.yaml"))
    assert code == 0 and "; 20 images, which are " in told, told
    run = RunDir(tmp_path / "run")
    code, told = dougong("run", str(tmp_path / "job.yaml"), "--run-dir", str(run.path), "--no-ray")
    assert code == 0, told
    (again,) = [event for event in run.read_events() if event.kind == "steps_recomputed"]
    assert (again.first, again.differs_from) == (3, None)

    shutil.rmtree(tmp_path / "tokenizer")  # the run has its own, image processor and all
    picture(tmp_path / "images/3.png", seed=99)
    code, told = dougong("resume", str(run.path), "-o", "steps=5", "--no-ray")
    assert code == DataError.exit_status and f"changed since: {tmp_path}/images/3.png" in " ".join(told.split()), told
    picture(tmp_path / "images/3.png", 40, 28, 3)
    code, told = dougong("resume", str(run.path), "-o", "steps=5", "--no-ray")
    assert code == 0 and "is gone; the run goes on with its own copy" in told, told
