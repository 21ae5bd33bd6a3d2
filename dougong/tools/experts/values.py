"""The values of experts in one form, so that folders that are stored otherwise can be compared.
Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dougong.checkpoint.tensorfile import as_array
from dougong.tools.experts.contents import Expert, StoredPart

_GATE, _UP, _DOWN, _GATE_UP = "gate", "up", "down", "gate and up"
_FAMILIES = (
    (re.compile(r"(gate_proj|w1)(\.weight)?"), _GATE),
    (re.compile(r"(up_proj|w3)(\.weight)?"), _UP),
    (re.compile(r"(down_proj|w2|output_linear|fc2)([._]weight)?"), _DOWN),
    (re.compile(r"(gate_up_proj|input_linear|fc1|w13)([._]weight)?"), _GATE_UP),
)
_WIDTHS = {"F64": 3, "F32": 2, "BF16": 1, "F16": 1}
"""How exact a number is; of two dtypes the lesser one is what both can be."""

Values = NDArray[Any]
Read = Callable[[], Values]


def is_comparable(a: str, b: str) -> bool:
    """Whether values of two dtypes can be compared."""
    return a == b or (a in _WIDTHS and b in _WIDTHS)


def clash_words(a: str, b: str) -> str:
    """What is said of two that cannot be compared."""
    return (
        f"{a} and {b}, which cannot be compared; read are FP8 and MXFP4 with the scales and the "
        "quantization_config that belong to them: dequantise that side first (read it with "
        "transformers, `save_pretrained` it in bfloat16)"
    )


def common_dtype(a: str, b: str) -> str:
    """The dtype in which two tensors are compared: that of the less exact one."""
    if a == b or not is_comparable(a, b):
        return a
    return min(a, b, key=lambda dtype: _WIDTHS[dtype])


def parts_of(expert: Expert) -> dict[str, StoredPart]:
    """By the names that all families share, where they are known: `gate`, `up`, `down`, or the
    first two in one, `gate and up`."""
    found = {}
    for part, stored in expert.items():
        names = [name for pattern, name in _FAMILIES if pattern.fullmatch(part)]
        found[names[0] if names else part] = stored
    return found


def leads(parts: Mapping[str, StoredPart], others: Mapping[str, StoredPart]) -> bool:
    """Whether the others are read as these lie: those that have gate and up apart lead."""
    return _GATE_UP not in parts or _GATE not in others


def as_they_lie(parts: Mapping[str, StoredPart], dtypes: Mapping[str, str]) -> dict[str, Read]:
    """How each tensor of an expert is read, flat, as `dtypes` says."""
    return {
        name: partial(_whole, one, False, _wanted(one, name, dtypes)) for name, one in parts.items()
    }


def like(
    parts: Mapping[str, StoredPart], lead: Mapping[str, StoredPart], dtypes: Mapping[str, str]
) -> dict[str, Read]:
    """The same, as `lead` lies: gate and up apart where it has them so, and transposed."""
    is_turned = _is_turned(parts, lead)
    found: dict[str, Read] = {}
    for name, stored in parts.items():
        if name == _GATE_UP and _GATE in lead:
            for half, its in enumerate((_GATE, _UP)):
                wanted = _wanted(stored, its, dtypes)
                found[its] = partial(_half, stored, lead[_GATE].shape[0], half, is_turned, wanted)
        else:
            turns = is_turned and len(stored.shape) == 2
            found[name] = partial(_whole, stored, turns, _wanted(stored, name, dtypes))
    return found


def _wanted(stored: StoredPart, name: str, dtypes: Mapping[str, str]) -> str:
    return dtypes.get(name, stored.dtype)


def _is_turned(parts: Mapping[str, StoredPart], lead: Mapping[str, StoredPart]) -> bool:
    """Whether matrices are [in, out] on one side and [out, in] on the other: by the first that both
    have and that is not square, else by gate and up."""
    for name in parts.keys() & lead.keys():
        shape = parts[name].shape
        if len(shape) == 2 and shape[0] != shape[1]:
            return shape == lead[name].shape[::-1]
    if _GATE_UP in parts and _GATE in lead:
        rows, columns = lead[_GATE].shape
        return parts[_GATE_UP].shape == (columns, 2 * rows) != (2 * rows, columns)
    return False


def dtypes_of(parts: Mapping[str, StoredPart], others: Mapping[str, StoredPart]) -> dict[str, str]:
    """In which each is compared."""
    found: dict[str, str] = {}
    for name, mine, theirs in [*_pairs(parts, others), *_pairs(others, parts)]:
        found[name] = common_dtype(mine.dtype, theirs.dtype)
    return found


def clashes(parts: Mapping[str, StoredPart], others: Mapping[str, StoredPart]) -> str:
    """What is said of the first whose two dtypes have nothing in common; empty where all have."""
    pairs = [*_pairs(parts, others)]
    pairs += [(name, theirs, mine) for name, mine, theirs in _pairs(others, parts)]
    for name, mine, theirs in pairs:
        if not is_comparable(mine.dtype, theirs.dtype):
            return f"{name} of an expert is {clash_words(mine.dtype, theirs.dtype)}"
    return ""


def _pairs(
    parts: Mapping[str, StoredPart], others: Mapping[str, StoredPart]
) -> Iterator[tuple[str, StoredPart, StoredPart]]:
    for name, stored in parts.items():
        if name in others:
            yield name, stored, others[name]
        elif name in (_GATE, _UP) and _GATE_UP in others:
            yield name, stored, others[_GATE_UP]


def in_dtype(values: bytearray, stored: str, wanted: str) -> Values:
    """Flat values, rounded to nearest even where `wanted` is less exact; where the two have
    nothing in common, its bytes."""
    if stored == wanted or not is_comparable(stored, wanted):
        return np.frombuffer(values, np.uint8)
    if wanted == "BF16":
        return _to_bfloat16(as_array(values, stored).astype(np.float32))
    kind = {"F16": np.float16, "F32": np.float32}[wanted]
    with np.errstate(over="ignore"):
        return as_array(values, stored).astype(kind).view(np.uint8)


def _to_bfloat16(values: Values) -> Values:
    bits = values.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    found: Values = np.where(np.isnan(values), quiet, rounded).astype("<u2").view(np.uint8)
    return found


def _whole(stored: StoredPart, is_turned: bool, dtype: str) -> Values:
    values = in_dtype(stored.read(), stored.dtype, dtype)
    return _turned(values, stored.shape).reshape(-1) if is_turned else values


def _half(stored: StoredPart, rows: int, half: int, is_turned: bool, dtype: str) -> Values:
    """Of gate and up in one, [2I, H] or turned [H, 2I]; `rows`: I."""
    values = in_dtype(stored.read(), stored.dtype, dtype)
    items = _turned(values, stored.shape) if is_turned else _items(values, stored.shape)
    return items[half * rows : (half + 1) * rows].reshape(-1)


def _turned(values: Values, shape: tuple[int, ...]) -> Values:
    return _items(values, shape).swapaxes(0, 1).copy()


def _items(values: Values, shape: tuple[int, ...]) -> Values:
    """[*shape, bytes of one]."""
    return values.reshape(*shape, -1)
