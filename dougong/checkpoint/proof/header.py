"""Does a safetensors file's own header say of its tensors what the manifest says? Imports no torch.

Another reader goes by the header, ours by the manifest: where the two differ, one of them reads
what was never written, although all digests are right.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_RULE = "in the manifest as in the file's own header"


@dataclass(frozen=True)
class PlacedTensor:
    """What a tensor is and where it lies. `offset`: in the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    def __str__(self) -> str:
        end = self.offset + self.num_bytes
        return f"{self.dtype} {list(self.shape)} in bytes {self.offset} to {end}"


@dataclass(frozen=True)
class TensorClaim:
    """What a manifest says of a tensor, or of one `row` of it, or of its elements from `begin` on,
    of a tensor that is `whole`. `name`: by which the header knows it; `label`: by which messages
    do."""

    label: str
    name: str
    row: int | None
    place: PlacedTensor
    begin: int | None = None
    whole: tuple[int, ...] = ()


@dataclass(frozen=True)
class HeaderMismatch:
    """Where the two differ. `expected`: by the header; `actual`: by the manifest. `label`: empty
    where the header is none."""

    label: str
    rule: str
    expected: str
    actual: str


def compare_header(data: bytes, claims: Iterable[TensorClaim]) -> list[HeaderMismatch]:
    """Each claim against the header. `data`: all of it, with the 8 bytes before it."""
    try:
        tensors = read_header(data)
    except ValueError as error:
        return [HeaderMismatch("", "header", "one of the safetensors format", str(error))]
    found = []
    for claim in claims:
        tensor = tensors.get(claim.name)
        there = None if tensor is None else _part_of(tensor, claim)
        if there != claim.place:
            due = "no such tensor" if there is None else str(there)
            found.append(HeaderMismatch(claim.label, _RULE, due, str(claim.place)))
        elif tensor is not None and claim.begin is not None and tensor.shape != claim.whole:
            due, said = (f"a part of {list(shape)}" for shape in (tensor.shape, claim.whole))
            found.append(HeaderMismatch(claim.label, _RULE, due, said))
    return found


def read_header(data: bytes) -> dict[str, PlacedTensor]:
    """What a header says of its file's tensors, by name. ValueError where it is none."""
    try:
        (size,) = struct.unpack_from("<Q", data)
        described = json.loads(data[8:])
        described.pop("__metadata__", None)
        tensors = {name: _placed(raw, len(data)) for name, raw in described.items()}
    except (struct.error, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"no such thing ({error!r:.80})") from error
    except RecursionError as error:
        raise ValueError("one that is nested without end") from error
    if size + 8 != len(data):
        raise ValueError(f"one that says it has {size} bytes, and has {len(data) - 8}")
    return tensors


def _placed(raw: Mapping[str, Any], end_of_header: int) -> PlacedTensor:
    begin, stop = raw["data_offsets"]
    shape = tuple(int(extent) for extent in raw["shape"])
    return PlacedTensor(raw["dtype"], shape, end_of_header + int(begin), int(stop) - int(begin))


def _part_of(tensor: PlacedTensor, claim: TensorClaim) -> PlacedTensor | None:
    """That of which the claim is; None where the tensor does not hold it."""
    if claim.row is not None:
        return _row_of(tensor, claim.row)
    if claim.begin is None:
        return tensor
    numel = math.prod(tensor.shape)
    (length,) = claim.place.shape
    if not numel or claim.begin + length > numel:
        return None
    item = tensor.num_bytes // numel
    return PlacedTensor(tensor.dtype, (length,), tensor.offset + claim.begin * item, length * item)


def _row_of(tensor: PlacedTensor, row: int) -> PlacedTensor | None:
    """One of the rows that a tensor `[E, ...]` holds; None of one that it does not hold."""
    rows, *shape = tensor.shape or (0,)
    if row >= rows:
        return None
    size = tensor.num_bytes // rows
    return PlacedTensor(tensor.dtype, tuple(shape), tensor.offset + row * size, size)
