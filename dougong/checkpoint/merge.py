"""All workers' parts of one step, held against each other. Reads and writes no file.

Parts that come from different steps, overlap, leave a gap or lack a tensor are no checkpoint:
every function here raises `CheckpointError` for them and names the worker, file or tensor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dougong.checkpoint.manifest import MODEL_GROUP, EntryKey, FileRecord, ModelTensors
from dougong.checkpoint.part import CheckpointPart, ModelDescription, StateShape
from dougong.errors import CheckpointError
from dougong.parallel.pieces import OwnedPiece, first_misplaced, piece_named
from dougong.parallel.plan import Inventory

_Key = tuple[str, str]
"""(group, name)."""


def expected_tensors(inventory: Inventory, state_kinds: Sequence[str]) -> list[StateShape]:
    """All that a checkpoint must hold of a model.

    The model group holds every tensor, each of `state_kinds` (the optimizer's groups, such as
    "exp_avg") those that are trained.
    """
    experts = [(name, shape) for _, name, shape in _expert_tensors(inventory)]
    every = [(tensor.name, tensor.shape) for tensor in inventory.tensors] + experts
    trained = [(t.name, t.shape) for t in inventory.tensors if t.trainable]
    frozen = inventory.frozen_experts
    trained += [(n, shape) for p, n, shape in _expert_tensors(inventory) if p not in frozen]
    found = [StateShape(MODEL_GROUP, name, shape) for name, shape in every]
    for kind in state_kinds:
        found += [StateShape(kind, name, shape) for name, shape in trained]
    return found


def _expert_tensors(inventory: Inventory) -> list[tuple[str, str, tuple[int, ...]]]:
    """(parameter, tensor, its shape)."""
    found = []
    for site in inventory.sites:
        for parameter, shape in inventory.expert_shapes:
            for expert in range(inventory.num_experts):
                name = f"{site}.{parameter}"
                found.append((name, f"{name}[{expert}]", shape))
    return found


def check_origin(
    parts: Sequence[CheckpointPart], step: int, generation: int, directory: str
) -> None:
    """Refuse parts of another step or generation, and two parts of one worker."""
    if not parts:
        raise CheckpointError(
            f"step {step}: no part to commit; every worker of the generation sends one"
        )
    for part in parts:
        if (part.step, part.generation, part.directory) != (step, generation, directory):
            raise CheckpointError(
                f"step {step}, generation {generation}: worker {part.worker} sent a part of step "
                f"{part.step}, generation {part.generation} ({part.directory}); only parts of one "
                "step and generation make a checkpoint"
            )
    _check_one_part_each(parts, step)


def _check_one_part_each(parts: Sequence[CheckpointPart], step: int) -> None:
    counts = Counter(part.worker for part in parts)
    twice = sorted(worker for worker, count in counts.items() if count > 1)
    if twice:
        raise CheckpointError(
            f"step {step}: {', '.join(twice)} sent more than one part; each worker sends one"
        )


@dataclass(frozen=True)
class MergedParts:
    """What all workers have written between them, found to be one whole state."""

    files: dict[str, FileRecord]
    model: ModelDescription


def merge_parts(parts: Sequence[CheckpointPart], expected: Sequence[StateShape]) -> MergedParts:
    """The files and the model of parts of one step, which must hold the model and `expected`."""
    files = merge_files(parts)
    model = merge_models(parts)
    check_complete(parts, model.tensors, expected)
    return MergedParts(files, model)


def merge_files(parts: Sequence[CheckpointPart]) -> dict[str, FileRecord]:
    """One record for each file; several workers may have written one file between them.

    Why this is enough to trust a shared file: the records cover every byte of it exactly once
    (`FileRecord.gap`), each with the digest that its writer read back from storage.
    """
    files: dict[str, FileRecord] = {}
    for part in parts:
        for name, record in part.files.items():
            known = files.get(name)
            files[name] = record if known is None else _join(name, known, record)
    for name, record in files.items():
        gap = record.gap()
        if gap is not None:
            raise CheckpointError(f"{name}: {gap}; the workers' parts do not make a whole file")
    _check_one_place_each(files)
    return files


def _join(name: str, one: FileRecord, other: FileRecord) -> FileRecord:
    if one.num_bytes != other.num_bytes:
        raise CheckpointError(
            f"{name}: workers disagree on its size, {one.num_bytes} and {other.num_bytes} bytes"
        )
    if one.header is not None and other.header is not None:
        raise CheckpointError(f"{name}: two workers wrote its header; the tensors' rows overlap")
    header = one.header or other.header
    return FileRecord(one.num_bytes, None, header, one.entries + other.entries)


def _check_one_place_each(files: Mapping[str, FileRecord]) -> None:
    places: dict[EntryKey, str] = {}
    for name, record in files.items():
        for entry in record.entries:
            if entry.key in places:
                raise CheckpointError(
                    f"{entry.label}: written to {places[entry.key]} and to {name}; "
                    "a tensor has one owner"
                )
            places[entry.key] = name


def merge_models(parts: Sequence[CheckpointPart]) -> ModelDescription:
    """The model's description; empty when no part brings one."""
    described = [part.model for part in parts if part.model is not None]
    if not described:
        return ModelDescription(ModelTensors())
    if any(model.tensors != described[0].tensors for model in described):
        raise CheckpointError(
            "workers disagree on the model's tensors; they did not build the same model"
        )
    return described[0]


def check_complete(
    parts: Sequence[CheckpointPart], tensors: ModelTensors, expected: Sequence[StateShape]
) -> None:
    """Refuse parts that lack a tensor of the model or of `expected`, or hold one of another shape
    or twice."""
    held = _held(parts)
    wanted = [StateShape(MODEL_GROUP, name, shape) for name, shape in tensors.logical()]
    wanted += expected
    _check_none_missing(held, wanted)
    for item in wanted:
        shape = held.shapes.get(item.key)
        if shape is None:
            _check_pieces(item, held.pieces[item.key])
        elif shape != item.shape:
            raise CheckpointError(
                f"{item.group} {item.name}: written as {list(shape)}, "
                f"expected shape {list(item.shape)}"
            )


def _check_none_missing(held: _Held, wanted: Sequence[StateShape]) -> None:
    missing = [i for i in wanted if i.key not in held.shapes and i.key not in held.pieces]
    if not missing:
        return
    first = missing[0]
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    raise CheckpointError(
        f"{first.group} {first.name}: no worker wrote it{more}; "
        "every tensor has an owner, see plan.json"
    )


@dataclass(frozen=True)
class _Held:
    """What the workers wrote: the shapes of whole tensors, and the pieces of others."""

    shapes: dict[_Key, tuple[int, ...]]
    pieces: dict[_Key, list[OwnedPiece]]


def _held(parts: Sequence[CheckpointPart]) -> _Held:
    held, known = _Held({}, {}), set[_Key]()
    for part in parts:
        for item in part.state:
            if item.key in known:
                raise CheckpointError(
                    "two workers wrote the same tensor; every tensor has one owner, see plan.json"
                )
            known.add(item.key)
            piece = piece_named(item.name)
            if piece is None:
                held.shapes[item.key] = item.shape
            else:
                held.pieces.setdefault((item.group, piece.tensor), []).append(piece)
    return held


def _check_pieces(wanted: StateShape, pieces: Sequence[OwnedPiece]) -> None:
    """Together they must be all of it, each element once."""
    ordered = sorted(pieces, key=lambda piece: piece.begin)
    misplaced = first_misplaced(ordered)
    if misplaced is not None:
        piece, end = misplaced
        raise CheckpointError(
            f"{wanted.group} {wanted.name}: its piece {piece.name} was written, but those before "
            f"it end at {end}; every piece has one owner, see plan.json"
        )
    end = ordered[-1].end
    if end != math.prod(wanted.shape):
        raise CheckpointError(
            f"{wanted.group} {wanted.name}: its pieces end at {end}, but shape "
            f"{list(wanted.shape)} has {math.prod(wanted.shape)} elements"
        )
