"""Model folders that hold a parameter in another form than transformers writes it, and that
transformers reads all the same: under the live names, experts together or one by one, older names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dougong.checkpoint.parameters import NUMBERS, DiskTensor, ParameterOnDisk
from dougong.checkpoint.tensorfile import TensorShape
from dougong.models.library.conversion import Converters
from dougong.models.stored.headers import by_name

_Shapes = Mapping[str, tuple[int, ...]]
"""Of the tensors that a folder holds, by name."""


def in_stored_form(
    converters: Converters,
    parameters: Mapping[str, ParameterOnDisk],
    absent: Iterable[str],
    stored: _Shapes,
) -> dict[str, ParameterOnDisk]:
    """Of the `absent` parameters, those that the tensors of a folder come to by transformers' own
    renamings and converters, as they lie there."""
    sources = _Sources.of(converters, stored)
    found = {}
    for live in absent:
        other = sources.form_of(parameters[live])
        if other is not None and _has_its_shape(converters, other):
            found[live] = other
    return found


@dataclass(frozen=True)
class _Sources:
    """`by_live`: by live name, the converter's patterns and the names on disk that each takes."""

    stored: _Shapes
    by_live: Mapping[str, Mapping[str, list[str]]]
    converters: Mapping[str, Any]

    @staticmethod
    def of(converters: Converters, stored: _Shapes) -> _Sources:
        by_live: dict[str, dict[str, list[str]]] = {}
        used: dict[str, Any] = {}
        for name in stored:
            reading = converters.reading(name)
            pattern = reading.pattern if reading.converter is not None else ""
            by_live.setdefault(reading.live, {}).setdefault(pattern, []).append(name)
            used[reading.live] = reading.converter
        return _Sources(stored, by_live, used)

    def form_of(self, parameter: ParameterOnDisk) -> ParameterOnDisk | None:
        """None where the folder does not hold it, or not as one of the two forms of experts."""
        dtype = parameter.tensors[0].disk.dtype
        tensors = []
        for pattern, names in self.by_live.get(parameter.live, {}).items():
            number = self._numeral(names, parameter)
            if number is None and len(names) > 1:
                return None
            one = DiskTensor(TensorShape(names[0], dtype, self.stored[names[0]]), number, pattern)
            tensors.append(dataclasses.replace(one, disk=one.piece(0).disk))
        converter = self.converters.get(parameter.live)
        if not tensors or (converter is None and len(tensors) > 1):
            return None
        return dataclasses.replace(
            parameter, tensors=tuple(tensors), converter=converter, joined=None
        )

    def _numeral(self, names: list[str], parameter: ParameterOnDisk) -> int | None:
        """Where the names of a parameter's experts, one by one, carry their numbers; None where
        they are not that."""
        words = [NUMBERS.split(name) for name in names]
        places = [place for place in range(len(words[0])) if len(_at(words, place)) > 1]
        is_alike = len({len(one) for one in words}) == len({self.stored[n] for n in names}) == 1
        numbers = {str(expert) for expert in range(parameter.rows or 0)}
        if is_alike and len(places) == 1 and _at(words, places[0]) == numbers:
            return places[0]
        return None


def _at(words: list[list[str]], place: int) -> set[str]:
    return {one[place] for one in words if place < len(one)}


def _has_its_shape(converters: Converters, form: ParameterOnDisk) -> bool:
    """Whether what is stored comes to as many values as the model has; looked at without any."""
    expected = form.shape if form.rows is None else (form.rows, *form.shape)
    if form.converter is None:
        return form.tensors[0].disk.shape == expected
    one_row = form.rows is not None
    parts = [(tensor.pattern, _made_up(tensor, one_row)) for tensor in form.tensors]
    try:
        live = converters.convert(form.converter, form.live, parts)
    except Exception:  # a converter says in its own way that the shapes are another model's
        return False
    return tuple(live.shape[1:] if one_row else live.shape) == form.shape


def _made_up(tensor: DiskTensor, one_row: bool) -> torch.Tensor:
    """On meta; of experts' rows, one."""
    shape = tensor.disk.shape
    if one_row and tensor.numeral is None:
        shape = (1, *shape[1:])
    return torch.empty(shape, device="meta")


def absent_parameters(
    parameters: Mapping[str, ParameterOnDisk],
    aliases: Mapping[str, tuple[str, ...]],
    stored: _Shapes,
) -> Iterator[str]:
    """The live names of parameters of which no part lies in a folder under the name that
    transformers writes. One that lacks a part alone is another defect."""
    for live, parameter in parameters.items():
        expert = None if parameter.rows is None else 0
        named = {piece.name for piece in parameter.pieces(expert)} | {*aliases.get(live, ())}
        if all(by_name(stored, name) is None for name in named):
            yield live
