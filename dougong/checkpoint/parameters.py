"""How one live parameter lies on disk: which tensors, under which names, and how it is read back.

Which, is found by asking transformers' own converters with tensors on the meta device; no family is
known by name here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dougong.checkpoint.tensorfile import TensorShape, TensorSpan
from dougong.errors import ModelError
from dougong.models.library.conversion import Converters, Joined, Reading
from dougong.ops.adapter_names import is_of_experts

NUMBERS = re.compile(r"(\d+)")
"""What a name is split at: its numbers are then the words at odd places."""
_SAFETENSORS_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
TORCH_DTYPES = {word: dtype for dtype, word in _SAFETENSORS_DTYPES.items()}


def stored_dtype(dtype: torch.dtype) -> str:
    """Floating point is stored as float32 (master weights), integers and booleans as they are."""
    return "F32" if dtype.is_floating_point else _SAFETENSORS_DTYPES[dtype]


def kept_dtype(dtype: torch.dtype) -> str:
    """What an optimizer keeps, and a snapshot holds, is stored as it is."""
    return _SAFETENSORS_DTYPES[dtype]


@dataclass(frozen=True)
class Piece:
    """A place on disk.

    `row` None: the whole tensor `disk`, or a `span` of its elements. Else that row of it;
    `disk.shape` is then `[E, ...]`.
    """

    disk: TensorShape
    row: int | None
    span: TensorSpan | None = None

    @property
    def name(self) -> str:
        return self.disk.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what is stored here: the whole tensor, one row, or the span, flat."""
        if self.span is not None:
            return (self.span.numel,)
        return self.disk.shape if self.row is None else self.disk.shape[1:]


@dataclass(frozen=True)
class DiskTensor:
    """One of the tensors on disk that a live parameter becomes.

    `disk`: that tensor; of a parameter with a tensor on disk for each expert, the one of expert 0.
    `numeral`: where in its name the expert's number stands, as an index into the name split at its
    numbers; None where the name carries no expert's number. `pattern`: by which transformers'
    converter knows it when reading.
    """

    disk: TensorShape
    numeral: int | None = None
    pattern: str = ""

    def piece(self, expert: int | None) -> Piece:
        """Where an expert's part lies; `expert` None: the parameter has no experts."""
        if expert is None or self.numeral is None:
            return Piece(self.disk, expert)
        words = NUMBERS.split(self.disk.name)
        words[self.numeral] = str(expert)
        return Piece(dataclasses.replace(self.disk, name="".join(words)), None)


@dataclass(frozen=True)
class ParameterOnDisk:
    """How one live parameter goes to disk and comes back.

    `rows` None: a dense tensor of `shape`. Else an experts module's parameter `[rows, *shape]`, of
    which each row is a logical tensor. `converter`: transformers', by which the tensors on disk
    become the live one; None where there is one tensor, with the live one's values. `joined`: how
    it lies in the one tensor on disk, of which others have the rest.
    """

    live: str
    shape: tuple[int, ...]
    rows: int | None
    tensors: tuple[DiskTensor, ...]
    converter: Any = None
    joined: Joined | None = None

    @property
    def site(self) -> str:
        """The name of the module that holds the parameter."""
        return self.live.rpartition(".")[0]

    @property
    def fused(self) -> list[TensorShape]:
        """The tensors on disk that hold all experts as rows `[E, ...]`."""
        if self.rows is None:
            return []
        return [tensor.disk for tensor in self.tensors if tensor.numeral is None]

    def pieces(self, expert: int | None) -> tuple[Piece, ...]:
        if self.joined is not None:
            span = TensorSpan(*self.joined.range_of(self.live), self.joined.shape)
            return (Piece(self.tensors[0].disk, None, span),)
        return tuple(tensor.piece(expert) for tensor in self.tensors)


def dense_on_disk(
    converters: Converters, name: str, state: Mapping[str, Tensor]
) -> ParameterOnDisk:
    """How a tensor of the model's state lies on disk that is stored whole, or joined to others."""
    tensor = state[name]
    joined = converters.joined(name, state)
    if joined is not None:
        disk = TensorShape(joined.disk, stored_dtype(tensor.dtype), joined.shape)
        return ParameterOnDisk(name, joined.parts[name], None, (DiskTensor(disk),), joined=joined)
    meta = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    written = converters.revert(name, meta)
    dtype = stored_dtype(tensor.dtype)
    tensors = [
        DiskTensor(TensorShape(disk, dtype, tuple(values.shape)))
        for disk, values in written.items()
    ]
    return _readable(converters, ParameterOnDisk(name, tuple(tensor.shape), None, tuple(tensors)))


def expert_on_disk(converters: Converters, name: str, tensor: Tensor) -> ParameterOnDisk:
    """How an experts module's parameter `[rows, ...]` lies on disk.

    transformers is asked what it would write for one, two and three experts. Why these answers tell
    all: a family stores an expert either as tensors of its own, whose names carry its number, or as
    a row of a tensor of all experts. In the first case each further expert adds as many names as
    the first one had, and the new names differ from the first expert's in one number alone; in the
    second the names stay and the first dimension counts. One expert more cannot tell the expert's
    number from another that is 0 as well, such as a layer's; two more can, since only one number
    runs 0, 1, 2. Everything else is refused. The cost does not grow with the number of experts.
    """
    shape = tuple(tensor.shape[1:])
    dtype = stored_dtype(tensor.dtype)
    written = [
        converters.revert(name, torch.empty((count, *shape), dtype=tensor.dtype, device="meta"))
        for count in (1, 2, 3)
    ]
    rows = int(tensor.shape[0])
    tensors = tuple(_expert_tensor(name, disk, written, rows, dtype) for disk in written[0])
    _check_names_repeat(name, written, tensors)
    return _readable(converters, ParameterOnDisk(name, shape, rows, tensors))


def adapter_on_disk(name: str, shape: tuple[int, ...]) -> ParameterOnDisk:
    """An adapter's tensor lies on disk as it lies in memory; of experts' each expert has a row."""
    disk = TensorShape(name, stored_dtype(torch.float32), shape)
    if not is_of_experts(name):
        return ParameterOnDisk(name, disk.shape, None, (DiskTensor(disk),))
    return ParameterOnDisk(name, disk.shape[1:], disk.shape[0], (DiskTensor(disk),))


_Written = Mapping[str, Tensor]
"""What transformers would write, by name."""


def _expert_tensor(
    name: str, disk: str, written: Sequence[_Written], rows: int, dtype: str
) -> DiskTensor:
    """`disk`: one of the names that transformers writes for a single expert."""
    shape = tuple(written[0][disk].shape)
    numeral = _numeral(disk, written)
    if numeral is not None:
        return DiskTensor(TensorShape(disk, dtype, shape), numeral)
    if _counts_experts(disk, written):
        return DiskTensor(TensorShape(disk, dtype, (rows, *shape[1:])))
    raise ModelError(
        f"{name}: on disk {disk} is neither one expert's nor has experts' rows; not supported"
    )


def _numeral(disk: str, written: Sequence[_Written]) -> int | None:
    """Where expert 0's name carries its number: the names of experts 1 and 2 differ from it there
    alone."""
    one, two, three = written
    # Splitting at a group keeps what it matched: the numbers are the words at odd places.
    words = NUMBERS.split(disk)
    for place in range(1, len(words), 2):
        second, third = _renumbered(words, place, "1"), _renumbered(words, place, "2")
        comes_second = second in two and second not in one
        comes_third = third in three and third not in two
        if words[place] == "0" and comes_second and comes_third:
            return place
    return None


def _renumbered(words: Sequence[str], place: int, number: str) -> str:
    return "".join([*words[:place], number, *words[place + 1 :]])


def _counts_experts(disk: str, written: Sequence[_Written]) -> bool:
    """Whether the first dimension of a tensor on disk is the number of experts."""
    for count, tensors in enumerate(written, 1):
        if disk not in tensors or tensors[disk].shape[:1] != (count,):
            return False
    return True


def _check_names_repeat(
    name: str, written: Sequence[_Written], tensors: Sequence[DiskTensor]
) -> None:
    """The second expert must add one name for each that carries the first one's number, no more."""
    one, two, _ = written
    added = set(two) - set(one)
    numbered = [tensor for tensor in tensors if tensor.numeral is not None]
    if not set(one) <= set(two) or len(added) != len(numbered):
        raise ModelError(
            f"{name}: its experts' names on disk follow no pattern: {sorted(two)}; not supported"
        )


def _readable(converters: Converters, parameter: ParameterOnDisk) -> ParameterOnDisk:
    """Add how transformers reads the tensors back.

    All of them must come to the same live name by one converter: else a folder that we write would
    be read as another model.
    """
    readings = [converters.reading(tensor.disk.name) for tensor in parameter.tensors]
    converter = readings[0].converter
    is_whole = converter is not None or len(readings) == 1
    for reading in readings:
        if reading.live != parameter.live or reading.converter is not converter or not is_whole:
            raise ModelError(
                f"{parameter.live}: transformers would not read back what it writes: "
                f"{_as_read(parameter, readings)}"
            )
    tensors = [
        dataclasses.replace(tensor, pattern=reading.pattern)
        for tensor, reading in zip(parameter.tensors, readings, strict=True)
    ]
    return dataclasses.replace(parameter, tensors=tuple(tensors), converter=converter)


def _as_read(parameter: ParameterOnDisk, readings: Sequence[Reading]) -> str:
    pairs = zip(parameter.tensors, readings, strict=True)
    return ", ".join(f"{tensor.disk.name} as {reading.live}" for tensor, reading in pairs)


def refuse_shared(parameters: Iterable[ParameterOnDisk]) -> None:
    """Refuse a family that keeps two live tensors in one on disk: one owner could not write it.
    Those that are joined have each a place of their own in it."""
    owners: dict[str, str] = {}
    for parameter in parameters:
        if parameter.joined is not None:
            continue
        for tensor in parameter.tensors:
            name = tensor.disk.name
            if name in owners:
                raise ModelError(
                    f"{name}: on disk it mixes {owners[name]} and {parameter.live}; not supported"
                )
            owners[name] = parameter.live
