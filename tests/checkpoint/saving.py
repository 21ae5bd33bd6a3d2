"""Checkpoints of tiny models for the tests of this room: what several workers and a controller do, in one process."""

from __future__ import annotations

import dataclasses
import struct
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from dougong.checkpoint.directories import MANIFEST
from dougong.checkpoint.disk import digest
from dougong.checkpoint.huggingface import Names
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.part import CheckpointPart, PartWriter
from dougong.checkpoint.repository import Additions, commit
from dougong.checkpoint.snapshot import OnDurable, OnFailed, Saver, StateTensor
from dougong.deadlines import Deadlines
from dougong.models.library.classes import auto_class
from tests.families import tiny_config

NUM_EXPERTS = 8
State = dict[tuple[str, str], torch.Tensor]


def tiny_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A float32 model with every tensor random, buffers too, so that no two rows are alike."""
    from transformers import logging

    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    config = tiny_config(family, **changes)
    model = auto_class(config).from_config(config).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in {id(t): t for t in model.state_dict(keep_vars=True).values()}.values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


def sites_of(model: Any) -> list[str]:
    return [name for name, _ in model.named_modules() if name.endswith(".experts")]


def names_of(model: Any, num_experts: int = NUM_EXPERTS) -> Names:
    return Names.of(model, sites_of(model), num_experts)


def live_tensor(state: dict[str, torch.Tensor], logical: str) -> torch.Tensor:
    """A logical tensor's values out of a state dict."""
    if not logical.endswith("]"):
        return state[logical]
    name, _, expert = logical[:-1].rpartition("[")
    return state[name][int(expert)]


def state_of(model: Any, names: Names, seed: int = 0) -> State:
    """The whole state of a job: the model, and optimizer tensors of random values."""
    live = model.state_dict()
    generator = torch.Generator().manual_seed(seed)
    found: State = {}
    for name, shape in names.tensors():
        found["model", name] = live_tensor(live, name)
        if found["model", name].is_floating_point():
            for group in ("exp_avg", "exp_avg_sq"):
                found[group, name] = torch.randn(shape, generator=generator)
    return found


def share(state: State, worker: int, num_workers: int, num_experts: int = NUM_EXPERTS) -> list[StateTensor]:
    """What one of several workers owns: experts in blocks, dense tensors in turn."""
    mine = []
    for number, ((group, name), tensor) in enumerate(state.items()):
        expert = int(name[:-1].rpartition("[")[2]) if name.endswith("]") else None
        owner = number % num_workers if expert is None else min(expert * num_workers // num_experts, num_workers - 1)
        if owner == worker:
            mine.append(StateTensor(group, name, tensor))
    return mine


def saver_of(
    root: Path,
    names: Names,
    on_durable: OnDurable,
    rank: int = 0,
    generation: int = 1,
    timeout_s: float = 60.0,
    on_failed: OnFailed = lambda step, reason: None,
    fence: int = 0,
) -> Saver:
    writer = PartWriter(f"east/{rank}", rank, generation, fence)
    limits = Deadlines(stage_checkpoint_s=timeout_s, commit_checkpoint_s=5.0, storage_retry_s=0.02)
    return Saver(root, writer, on_durable, on_failed, names, limits)


def write_parts(
    root: Path,
    names: Names,
    shares: Sequence[Iterable[StateTensor]],
    step: int = 20,
    generation: int = 1,
    fence: int = 0,
) -> list[CheckpointPart]:
    """Every worker's part, durable in pending/, not yet committed."""
    parts: list[CheckpointPart] = []
    for rank, tensors in enumerate(shares):
        saver = saver_of(root, names, parts.append, rank, generation, fence=fence)
        saver.stage(step, tensors)
        saver.wait()
    return parts


def save(root: Path, model: Any, num_workers: int = 2, step: int = 20, generation: int = 1, seed: int = 0) -> Path:
    """A committed checkpoint of a model and of random optimizer tensors."""
    names = names_of(model)
    state = state_of(model, names, seed)
    shares = [share(state, worker, num_workers) for worker in range(num_workers)]
    parts = write_parts(root, names, shares, step, generation)
    return commit(root, step, generation, parts, Additions({"seed": 1234}))


def make_not_finite(directory: Path, label: str, value: float = float("nan")) -> None:
    """Make a checkpoint hold `value` in a float32 tensor, with digests that say so: what a run that never looked at its
    values has left. `label`: as messages name the tensor."""
    manifest = Manifest.load(directory)
    file, entry = next((file, entry) for file, entry in manifest.entries() if entry.label == label)
    with (directory / file).open("r+b") as opened:
        opened.seek(entry.offset)
        opened.write(struct.pack("<f", value))
        opened.seek(entry.offset)
        data = opened.read(entry.num_bytes)
    record = manifest.files[file]
    entries = tuple(dataclasses.replace(e, digest=digest(data)) if e.key == entry.key else e for e in record.entries)
    files = {**manifest.files, file: dataclasses.replace(record, entries=entries)}
    (directory / MANIFEST).write_bytes(dataclasses.replace(manifest, files=files).to_bytes())


def bare_checkpoint(root: Path, step: int) -> Path:
    """One that is valid and holds nothing."""
    place = root / f"step-{step:06d}"
    place.mkdir()
    (place / MANIFEST).write_bytes(Manifest(step, 1, {}, {}).to_bytes())
    return place
