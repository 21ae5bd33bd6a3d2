"""A DeepSpeed universal checkpoint, read tensor by tensor under the names of this package.

    FOLDER/zero/PARAMETER/fp32.pt, exp_avg.pt, exp_avg_sq.pt, and of some step.pt
    FOLDER/mp_rank_00_model_states.pt (of ZeRO 3: zero_pp_rank_0_mp_rank_00_model_states.pt)

as `python -m deepspeed.checkpoint.ds_to_universal` writes it. A parameter has the live name that it
had in the model that DeepSpeed trained: experts are one tensor `[E, ...]` in transformers 5, and
one each in earlier ones, whose names are still those of the family's files. Of ZeRO 3 tensors are
flat. Nothing in it is run: what is no tensor and no plain value is refused.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dougong.checkpoint.huggingface import Names
from dougong.errors import SourceError

WEIGHTS = "fp32"
MOMENTS = ("exp_avg", "exp_avg_sq")
_LATEST = "latest_universal"
_PARAM = "param"
_MOST_NAMED = 3
_EXPERT = re.compile(r"(.*)\[(\d+)\]")


@dataclass(frozen=True)
class _ParameterPart:
    """Where a part of a logical tensor lies: the parameter's name in the folder, the shape that the
    model gives it, and the row that is meant (None: all of it)."""

    name: str
    shape: tuple[int, ...]
    row: int | None = None


class UniversalCheckpoint:
    """One such folder. `step`: the number of steps that DeepSpeed has done; `num_updates`: those in
    which it has moved weights."""

    def __init__(self, folder: Path, names: Names) -> None:
        """`folder`: the checkpoint, or the one above it in which DeepSpeed has noted the latest.
        Raises SourceError where it is none."""
        self.folder = _chosen(folder)
        self._names = names
        self._parameters = _parameters_in(self.folder)
        states = _states_of(self.folder)
        self.step = _number(states, "global_steps", self.folder)
        self.num_updates = self.step - int(states.get("skipped_steps") or 0)
        self._shapes = dict(_shapes_in(states))
        # Of ZeRO 3 what is partitioned stands there too, without its values.
        module: Mapping[str, Tensor] = states.get("module") or {}
        self._module = {name: value for name, value in module.items() if value.numel()}
        self._newest: dict[str, tuple[str, Tensor]] = {}

    def check(self) -> None:
        """SourceError that names what of the folder does not fit the model, and what the model
        lacks. Reads no values."""
        problems = []
        used: set[str] = set()
        for logical, _ in self._names.tensors():
            for found in self._places(logical):
                is_new = found.name not in used
                used.add(found.name)
                problem = self._problem(found) if is_new else ""
                if problem:
                    problems.append(problem)
        tied = set(self._names.tied)
        for name in sorted(self._parameters.keys() - used - tied):
            problems.append(f"{name} is no tensor of the model")
        if problems:
            more = len(problems) - _MOST_NAMED
            words = "; ".join(problems[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
            raise SourceError(
                f"{self.folder}: does not fit the job's model: {words}; give the `model` of the "
                "job the configuration that DeepSpeed has trained"
            )

    def weights(self, logical: str) -> Tensor:
        """A tensor of the model: float32, or whole numbers."""
        return self._read(WEIGHTS, logical)

    def moment(self, kind: str, logical: str) -> Tensor:
        """One of `MOMENTS` of a trained tensor, float32."""
        return self._read(kind, logical)

    def updates(self, logical: str) -> int:
        """How many updates a trained tensor has had. SourceError where its parts differ."""
        counts = set()
        for found in self._places(logical):
            file = self._parameters[found.name] / "step.pt"
            counts.add(int(float(_load(file))) if file.is_file() else self.num_updates)
        if len(counts) != 1:
            raise SourceError(
                f"{self.folder}: {logical}: its parts have had {sorted(counts)} updates; a tensor "
                "has one count here"
            )
        return counts.pop()

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
        if live in self._parameters or live in self._module:
            shape = self._live_shape(live)
            yield _ParameterPart(live, shape, expert)
            return
        for piece in self._names.pieces(logical):
            names = (piece.name, *self._names.aliases(logical))
            name = next((one for one in names if one in self._parameters), piece.name)
            yield _ParameterPart(name, tuple(piece.disk.shape), piece.row)

    def _live_shape(self, live: str) -> tuple[int, ...]:
        described = self._names.describe()
        return tuple({**described.dense, **described.experts}[live])

    def _problem(self, found: _ParameterPart) -> str:
        """What is wrong with a parameter, in words; empty where it fits."""
        if found.name not in self._parameters:
            if found.name in self._module:
                return _misfit(found, self._module[found.name], None)
            return f"{found.name} is not there"
        folder = self._parameters[found.name]
        lacks = [k for k in (WEIGHTS, *MOMENTS) if not (folder / f"{k}.pt").is_file()]
        if lacks:
            return f"{found.name} has no {' and no '.join(f'{kind}.pt' for kind in lacks)}"
        tensor = _tensor_in(folder / f"{WEIGHTS}.pt")
        return _misfit(found, tensor, self._shapes.get(found.name))

    def _value(self, kind: str, found: _ParameterPart) -> Tensor:
        tensor = self._whole(kind, found)
        problem = _misfit(found, tensor, self._shapes.get(found.name))
        if problem:
            raise SourceError(f"{self.folder}: {kind}.pt of {problem}")
        shaped = tensor.reshape(found.shape)
        value = shaped if found.row is None else shaped[found.row]
        return value.float() if value.is_floating_point() else value

    def _whole(self, kind: str, found: _ParameterPart) -> Tensor:
        """A parameter as it is stored. The newest of each kind is kept: the experts of a layer,
        asked for one by one, may be one file."""
        if found.name not in self._parameters:
            if kind == WEIGHTS and found.name in self._module:
                return self._module[found.name]
            raise SourceError(f"{self.folder}: {found.name} has no {kind}.pt")
        name, tensor = self._newest.get(kind, ("", torch.empty(0)))
        if name != found.name:
            tensor = _tensor_in(self._parameters[found.name] / f"{kind}.pt")
            self._newest[kind] = (found.name, tensor)
        return tensor


def _split(logical: str) -> tuple[str, int | None]:
    match = _EXPERT.fullmatch(logical)
    return (logical, None) if match is None else (match.group(1), int(match.group(2)))


def _misfit(found: _ParameterPart, tensor: Tensor, written: tuple[int, ...] | None) -> str:
    """`written`: the shape that DeepSpeed says a flat tensor had; None: it says none."""
    shape = tuple(tensor.shape)
    if tensor.dim() == 1 and tensor.numel() == math.prod(found.shape):
        shape = found.shape if written is None else written
    if shape == found.shape:
        return ""
    return f"{found.name} has shape {list(shape)}, and the model {list(found.shape)}"


def _chosen(folder: Path) -> Path:
    noted = folder / _LATEST
    if noted.is_file() and not (folder / "zero").is_dir():
        return folder / noted.read_text(errors="replace").strip()
    return folder


def _parameters_in(folder: Path) -> dict[str, Path]:
    """By name, with the prefix left out that a wrapper of the model has given all of them."""
    zero = folder / "zero"
    if not zero.is_dir():
        raise SourceError(
            f"{folder}: has no folder `zero`, so it is no universal checkpoint of DeepSpeed; make "
            "one: python -m deepspeed.checkpoint.ds_to_universal --input_folder CHECKPOINT "
            "--output_folder FOLDER"
        )
    found = {path.name: path for path in sorted(zero.iterdir()) if path.is_dir()}
    if not found:
        raise SourceError(f"{zero}: holds no parameter; make the checkpoint anew")
    if all(name.startswith("module.") for name in found):
        return {name.removeprefix("module."): path for name, path in found.items()}
    return found


def _states_of(folder: Path) -> Mapping[str, Any]:
    files = sorted(folder.glob("*mp_rank_00_model_states.pt"))
    if not files:
        raise SourceError(
            f"{folder}: has no file mp_rank_00_model_states.pt, which says how many steps were "
            "done; ds_to_universal copies it there"
        )
    states = _load(files[0])
    if not isinstance(states, Mapping):
        raise SourceError(f"{files[0]}: holds no states of a model")
    return states


def _number(states: Mapping[str, Any], key: str, folder: Path) -> int:
    value = states.get(key)
    if not isinstance(value, int) or value < 1:
        raise SourceError(f"{folder}: its model states say {key}: {value}, and not a step")
    return value


def _shapes_in(states: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of all parameters, as far as they are noted: a dict for each group."""
    groups = states.get("param_shapes") or []
    for group in groups if isinstance(groups, list) else [groups]:
        for name, shape in group.items():
            yield name.removeprefix("module."), tuple(shape)


def _tensor_in(file: Path) -> Tensor:
    """A tensor alone, or beside what DeepSpeed notes of its slices."""
    found = _load(file)
    tensor = found.get(_PARAM) if isinstance(found, Mapping) else found
    if not isinstance(tensor, Tensor):
        raise SourceError(f"{file}: holds no tensor")
    return tensor


def _load(file: Path) -> Any:
    """What a file of torch holds; its tensors stay on disk until they are read."""
    try:
        return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except OSError as error:
        raise SourceError(f"{file}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # what torch says of a damaged file speaks of its own insides
        if isinstance(error, pickle.UnpicklingError) and _has_whole_values(file):
            raise SourceError(
                f"{file}: holds more than tensors and plain values, which to load would be to run "
                "its code; load it once where you trust it, and save what is needed as plain values"
            ) from error
        size = file.stat().st_size
        raise SourceError(
            f"{file}: is damaged, or no file of torch ({size:,} bytes); convert the checkpoint "
            "again with ds_to_universal, or take an older one"
        ) from error


def _has_whole_values(file: Path) -> bool:
    """Whether the part of it that says what it holds is as it was written, by its checksum."""
    try:
        with zipfile.ZipFile(file) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            archive.read(name)
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error):
        return False
    return True
