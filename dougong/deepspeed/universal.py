"""A DeepSpeed universal checkpoint, read tensor by tensor under the names of this package.

    FOLDER/zero/PARAMETER/fp32.pt, exp_avg.pt, exp_avg_sq.pt, and of some step.pt
    FOLDER/mp_rank_00_model_states.pt (of ZeRO 3: zero_pp_rank_0_mp_rank_00_model_states.pt)

as `python -m deepspeed.checkpoint.ds_to_universal` writes it. A parameter has the live name that it
had in the model that DeepSpeed trained: experts are one tensor `[E, ...]` in transformers 5, and
one each in earlier ones, whose names are still those of the family's files. Of ZeRO 3 tensors are
flat. Nothing in it is run: what is no tensor and no plain value is refused
(`universal_files.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dougong.checkpoint.huggingface import Names
from dougong.checkpoint.parameters import stored_dtype
from dougong.deepspeed.universal_files import (
    AGAIN,
    Misfit,
    ModelStates,
    chosen_folder,
    parameters_in,
    refuse_form,
    refuse_values,
    tensor_in,
    updates_in,
)
from dougong.errors import SourceError

WEIGHTS = "fp32"
MOMENTS = ("exp_avg", "exp_avg_sq")
_LEAST = {"exp_avg_sq": 0.0}
"""A mean of squares."""
_FLOATING = stored_dtype(torch.float32)
_MOST_NAMED = 3
_EXPERT = re.compile(r"(.*)\[(\d+)\]")
_CONFIGURATION = "give the `model` of the job the configuration that DeepSpeed has trained"
_FROZEN = "begin a run from the weights alone (`model.path`)"


@dataclass(frozen=True)
class _ParameterPart:
    """Where a part of a logical tensor lies: the parameter's name in the folder, the shape that the
    model gives it, and the row that is meant (None: all of it). `is_floating`: as the model has
    it."""

    name: str
    shape: tuple[int, ...]
    is_floating: bool
    row: int | None = None


class UniversalCheckpoint:
    """One such folder. `step`: the number of steps that DeepSpeed has done; `num_updates`: those in
    which it has moved weights."""

    def __init__(self, folder: Path, names: Names) -> None:
        """`folder`: the checkpoint, or the one above it in which DeepSpeed has noted the latest.
        Raises SourceError where it is none."""
        self._names = names
        try:
            self.folder = chosen_folder(folder)
            self._parameters = parameters_in(self.folder)
            states = ModelStates(self.folder)
        except OSError as error:
            where = error.filename or folder
            raise SourceError(f"{where}: cannot be read: {error.strerror}; mend that") from error
        self.step, self.num_updates = states.step, states.num_updates
        self._shapes, self._module = states.shapes, states.module
        self._newest: dict[str, tuple[str, Tensor]] = {}
        self._counts: dict[str, int] = {}

    def check(self, trained: Collection[str] = ()) -> None:
        """SourceError that names what of the folder does not fit the model, what the model lacks,
        and what is damaged. Reads every value, a tensor at a time. `trained`: the logical tensors
        that the job trains, which must have moments."""
        problems = list(self._problems(trained))
        if problems:
            raise SourceError(f"{self.folder}: {self._words(problems)}")

    def _problems(self, trained: Collection[str]) -> Iterator[Misfit]:
        used: set[str] = set()
        for logical, _ in self._names.tensors():
            parts = list(self._places(logical))
            found = [part for part in parts if part.name not in used]
            used.update(part.name for part in parts)
            for part in found:
                yield from self._problems_of(part, logical in trained)
            # Of a tensor of one part there is nothing to compare.
            if logical in trained and len(parts) > 1:
                yield from self._uneven_counts(logical, parts)
        tied = set(self._names.tied)
        for name in sorted(self._parameters.keys() - used - tied):
            yield Misfit(name, "is no tensor of the model", _CONFIGURATION)

    def _problems_of(self, found: _ParameterPart, is_trained: bool) -> Iterator[Misfit]:
        name = found.name
        if name in self._module and name not in self._parameters and is_trained:
            yield Misfit(name, "has no moments: it was frozen, and the job trains it", _FROZEN)
        kinds = (WEIGHTS, *MOMENTS) if name in self._parameters else (WEIGHTS,)
        for kind in kinds:
            try:
                self._whole(kind, found)
            except Misfit as problem:
                yield problem
                if problem.remedy == _CONFIGURATION:
                    return  # its moments do not fit either
        if name in self._parameters:
            try:
                self._count(name)
            except Misfit as problem:
                yield problem

    def _uneven_counts(self, logical: str, parts: list[_ParameterPart]) -> Iterator[Misfit]:
        try:
            counts = {self._count(part.name) for part in parts if part.name in self._parameters}
        except Misfit:
            return  # told with its file
        if len(counts) > 1:
            yield _uneven(logical, counts)

    def _words(self, problems: list[Misfit]) -> str:
        """One sentence: by their remedies, what does not fit the model first."""
        remedies = sorted(
            {one.remedy for one in problems}, key=lambda one: (one != _CONFIGURATION, one)
        )
        return "; ".join(self._words_of(one, problems) for one in remedies)

    def _words_of(self, remedy: str, problems: list[Misfit]) -> str:
        words = [f"{one.place} {one.words}" for one in problems if one.remedy == remedy]
        named = [one.removeprefix(f"{self.folder}/") for one in words[:_MOST_NAMED]]
        more = len(words) - _MOST_NAMED
        rest = [f"and {more} more"] if more > 0 else []
        opening = "does not fit the job's model: " if remedy == _CONFIGURATION else ""
        return opening + "; ".join([*named, *rest, remedy])

    def weights(self, logical: str) -> Tensor:
        """A tensor of the model: float32, or whole numbers."""
        return self._read(WEIGHTS, logical)

    def moment(self, kind: str, logical: str) -> Tensor:
        """One of `MOMENTS` of a trained tensor, float32."""
        return self._read(kind, logical)

    def updates(self, logical: str) -> int:
        """How many updates a trained tensor has had. SourceError where its parts differ."""
        counts = {self._count(found.name) for found in self._places(logical)}
        if len(counts) != 1:
            raise _uneven(logical, counts)
        return counts.pop()

    def _count(self, name: str) -> int:
        """Of a parameter. The experts of a layer, asked for one by one, may be one file."""
        if name not in self._counts:
            file = self._parameters[name] / "step.pt"
            there = file.exists() or file.is_symlink()
            self._counts[name] = updates_in(file, self.step) if there else self.num_updates
        return self._counts[name]

    def _read(self, kind: str, logical: str) -> Tensor:
        places = list(self._places(logical))
        values = [self._value(kind, found) for found in places]
        live, _ = _split(logical)
        if places[0].name == live:
            return values[0]
        pieces = self._names.pieces(logical)
        by_name = {piece.name: value for piece, value in zip(pieces, values, strict=True)}
        return self._names.from_disk(logical, by_name)

    def _places(self, logical: str) -> Iterator[_ParameterPart]:
        """The parts of a logical tensor: under its live name, else under those of the family's
        files."""
        live, expert = _split(logical)
        pieces = self._names.pieces(logical)
        if live in self._parameters or live in self._module:
            is_floating = any(piece.disk.dtype == _FLOATING for piece in pieces)
            yield _ParameterPart(live, self._live_shape(live), is_floating, expert)
            return
        for piece in pieces:
            names = (piece.name, *self._names.aliases(logical))
            name = next((one for one in names if one in self._parameters), piece.name)
            is_floating = piece.disk.dtype == _FLOATING
            yield _ParameterPart(name, tuple(piece.disk.shape), is_floating, piece.row)

    def _live_shape(self, live: str) -> tuple[int, ...]:
        described = self._names.describe()
        return tuple({**described.dense, **described.experts}[live])

    def _value(self, kind: str, found: _ParameterPart) -> Tensor:
        shaped = self._whole(kind, found).reshape(found.shape)
        value = shaped if found.row is None else shaped[found.row]
        return value.float() if value.is_floating_point() else value

    def _whole(self, kind: str, found: _ParameterPart) -> Tensor:
        """A parameter as it is stored, which fits and is sound: Misfit otherwise. The newest of
        each kind is kept: the experts of a layer, asked for one by one, may be one file."""
        name, tensor = self._newest.get(kind, ("", torch.empty(0)))
        if name != found.name:
            tensor = self._sound(kind, found)
            self._newest[kind] = (found.name, tensor)
        return tensor

    def _sound(self, kind: str, found: _ParameterPart) -> Tensor:
        if found.name not in self._parameters:
            return self._sound_state(kind, found)
        file = self._parameters[found.name] / f"{kind}.pt"
        tensor, written = tensor_in(file), self._shapes.get(found.name)
        refuse_form(str(file), tensor, is_floating=True)
        # Where DeepSpeed says that it had the model's shape, it is the file that is wrong.
        is_model = kind == WEIGHTS and written != found.shape
        remedy = _CONFIGURATION if is_model else AGAIN
        _refuse_shape(str(file), found, tensor, written, remedy)
        refuse_values(str(file), tensor, _LEAST.get(kind, -math.inf))
        return tensor

    def _sound_state(self, kind: str, found: _ParameterPart) -> Tensor:
        """Of what no optimizer has had: a buffer, or what was frozen."""
        if found.name not in self._module or kind != WEIGHTS:
            if found.name in self._shapes:
                raise Misfit(found.name, "is not there, and DeepSpeed has trained it")
            raise Misfit(found.name, "is not there", _CONFIGURATION)
        tensor = self._module[found.name]
        refuse_form(found.name, tensor, found.is_floating)
        _refuse_shape(found.name, found, tensor, None, _CONFIGURATION)
        refuse_values(found.name, tensor)
        return tensor


def _split(logical: str) -> tuple[str, int | None]:
    match = _EXPERT.fullmatch(logical)
    return (logical, None) if match is None else (match.group(1), int(match.group(2)))


def _uneven(logical: str, counts: set[int]) -> Misfit:
    words = f"its parts have had {sorted(counts)} updates, and a tensor has one count here"
    return Misfit(logical, words)


def _refuse_shape(
    place: str, found: _ParameterPart, tensor: Tensor, written: tuple[int, ...] | None, remedy: str
) -> None:
    """`written`: the shape that DeepSpeed says a flat tensor had; None: it says none."""
    shape = tuple(tensor.shape)
    if tensor.dim() == 1 and tensor.numel() == math.prod(found.shape):
        shape = found.shape if written is None else written
    if shape != found.shape:
        words = f"has shape {list(shape)}, and the model {list(found.shape)}"
        raise Misfit(place, words, remedy)
