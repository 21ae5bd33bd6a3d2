"""Which tensors of a folder are quantised, and what each is when it is read; no value is read here.

Read is what transformers dequantises without further packages: FP8 with a scale for each block of
values (DeepSeek-V3, arXiv 2412.19437, section 3.3), also with FP4 values packed in pairs or scales
that are powers of two, and MXFP4 as gpt-oss has it (OCP Microscaling Formats 1.0). Imports no
torch.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.errors import ModelError
from dougong.models.stored.headers import AGAIN, FLOATS, INTEGERS, StoredTensor, refused

FP8, MXFP8, MXFP4 = "fp8", "mxfp8", "mxfp4"
METHODS = (FP8, MXFP8, MXFP4)
"""The quantisations that are read, by the word that a configuration has for them."""
KEYS = ("quantization_config", "compression_config")
"""Under which a config.json says how its weights are quantised."""
DEQUANTISE = (
    "which cannot be trained; dequantise the weights first (read them with transformers, "
    "`save_pretrained` them in bfloat16 or float32) and give that folder"
)

_MXFP4_BLOCK = 32
_SCALE = re.compile(r"(^|[._])(scales?|scale_inv|zeros|zero_points?|qzeros|absmax|quant_state\S*)$")
"""How the tensors end by which quantised values are multiplied or moved."""
_ACTIVATION_SCALE = re.compile(
    r"(^|[._])(activation_scale|input_scale|output_scale|qscale_act|[qkv]_scale)$"
)
"""Those of activations and of caches: of use where a model computes in eight bits."""
_WEIGHT = re.compile(r"(^|[._])(weight|proj|bias)$")
"""How trained tensors end; a table of a router may be of integers."""
_SCALED = ("{}.qweight", "{}_packed", "{}_blocks")
"""Where a scale's values lie under names of their own; {}: what stands before the scale's word."""
_EIGHT_BITS = ("F8_E4M3", "F8_E5M2")
_PACKED = "I8"
"""Of FP4 values, two in a byte."""
_SCALE_DTYPES = ("F32", "BF16", "F16", "F8_E8M0", "U8")


@dataclass(frozen=True)
class Quantisation:
    """What a configuration says: the method, and the block of its FP8 values (None: whole
    tensors, or whatever the scales' shapes say)."""

    method: str
    block: tuple[int, int] | None = None

    @staticmethod
    def of(config: Mapping[str, Any]) -> Quantisation | None:
        """None where it says nothing, or nothing that is read."""
        said = next(iter(_said(config)), None)
        if said is None or method_of(said) not in METHODS:
            return None
        block = said.get("weight_block_size")
        if block is None:
            return Quantisation(method_of(said))
        if not isinstance(block, list) or [type(n) for n in block] != [int, int] or min(block) < 1:
            raise ModelError(
                f"model.path: its config.json says weight_block_size: {json.dumps(block)} "
                "(quantization_config), expected two whole numbers above 0, such as [128, 128], or "
                "null"
            )
        return Quantisation(method_of(said), (block[0], block[1]))

    def is_half(self, tensor: StoredTensor) -> bool:
        """Whether a tensor that was not paired is values or scales by this method."""
        if self.method == MXFP4:
            return tensor.name.endswith(("_blocks", "_scales"))
        return tensor.dtype in _EIGHT_BITS or tensor.name.endswith("_scale_inv")


@dataclass(frozen=True)
class QuantisedTensor(StoredTensor):
    """One that is read by multiplying `values` with `scales`: `shape` and `dtype` are of what comes
    of it. `block`: of how many values, by the last two dimensions, each scale is one; None: MXFP4,
    whose blocks lie along the last dimension, which becomes the last but one."""

    values: StoredTensor
    scales: StoredTensor
    block: tuple[int, int] | None

    @property
    def words(self) -> str:
        """How it is stored."""
        if self.block is None:
            return f"MXFP4 blocks of {_MXFP4_BLOCK}"
        kind = "FP4" if self.values.dtype == _PACKED else "FP8"
        return f"{kind} blocks of {self.block[0]} x {self.block[1]}"


def method_of(said: Mapping[str, Any]) -> str:
    """Of a `quantization_config`."""
    return str(said.get("quant_method", "of an unnamed kind"))


def refuse_other_methods(folder: Path, config: Mapping[str, Any]) -> None:
    """ModelError for a config.json whose weights are quantised in a way that is not read, or that
    says so in two ways."""
    said = _said(config)
    methods = list(dict.fromkeys(map(method_of, said)))
    for method in methods:
        if method not in METHODS:
            raise ModelError(
                f"model.path: {folder} holds quantised weights ({method}, by its config.json), "
                f"{DEQUANTISE}; read are {', '.join(METHODS)}"
            )
    if len(methods) > 1:
        raise ModelError(
            f"model.path: {folder}: its config.json says that its weights are quantised in "
            f"{len(methods)} ways ({', '.join(methods)}); keep the one that is true"
        )


def _said(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a config.json says of quantisation, of the whole and of its text part."""
    inner = config.get("text_config")
    found = []
    for part in (config, inner if isinstance(inner, Mapping) else {}):
        for key in KEYS:
            if part.get(key):
                found.append(part[key] if isinstance(part[key], Mapping) else {})
    return found


def as_read(
    tensors: Mapping[str, StoredTensor], quantisation: Quantisation | None
) -> dict[str, StoredTensor]:
    """A folder's tensors as they read: those that are quantised with what comes of them, and
    without their scales. ModelError where values have no scale, or one of another shape."""
    found = dict(tensors)
    if quantisation is not None:
        paired = list(_paired(tensors, quantisation))
        for one in paired:
            found.pop(one.values.name)
            found.pop(one.scales.name)
        for one in paired:
            if one.name in found:
                raise refused(
                    one.file,
                    f"holds {one.values.name}, and {one.name} is there as it is; which of the two "
                    "the model is cannot be known: take one out",
                )
            found[one.name] = one
        found = {name: one for name, one in found.items() if not _ACTIVATION_SCALE.search(name)}
    _refuse_quantised(found, quantisation)
    return found


def _paired(
    tensors: Mapping[str, StoredTensor], quantisation: Quantisation
) -> Iterator[QuantisedTensor]:
    is_mxfp4 = quantisation.method == MXFP4
    for tensor in tensors.values():
        scales = _mxfp4_scales(tensor, tensors) if is_mxfp4 else _fp8_scales(tensor, tensors)
        if scales is not None:
            yield _mxfp4(tensor, scales) if is_mxfp4 else _fp8(tensor, scales, quantisation.block)


def _mxfp4_scales(values: StoredTensor, tensors: Mapping[str, StoredTensor]) -> StoredTensor | None:
    stem = values.name.removesuffix("_blocks")
    return tensors.get(f"{stem}_scales") if stem != values.name else None


def _fp8_scales(values: StoredTensor, tensors: Mapping[str, StoredTensor]) -> StoredTensor | None:
    if values.dtype not in (*_EIGHT_BITS, _PACKED):
        return None
    stem = values.name.removesuffix(".weight")
    names = (f"{values.name}_scale_inv", f"{stem}.scale", f"{stem}.qscale_weight")
    return next((tensors[name] for name in names if name in tensors), None)


def _mxfp4(values: StoredTensor, scales: StoredTensor) -> QuantisedTensor:
    """Blocks [E, rows, groups, 16] of U8 with two values a byte; scales [E, rows, groups]."""
    is_form = values.dtype == scales.dtype == "U8" and len(values.shape) == 4
    if not is_form or values.shape != (*scales.shape, _MXFP4_BLOCK // 2):
        raise _other_shape(values, scales, f"[experts, rows, groups, {_MXFP4_BLOCK // 2}] of U8")
    experts, rows, groups, _ = values.shape
    shape = experts, groups * _MXFP4_BLOCK, rows
    return _quantised(values.name.removesuffix("_blocks"), shape, values, scales, None)


def _fp8(
    values: StoredTensor, scales: StoredTensor, block: tuple[int, int] | None
) -> QuantisedTensor:
    if len(values.shape) < 2 or scales.dtype not in _SCALE_DTYPES:
        raise _other_shape(values, scales, "a matrix with scales of floats")
    width = 2 if values.dtype == _PACKED else 1
    shape = *values.shape[:-1], values.shape[-1] * width
    found = _block_of(shape, scales.shape, block, values.dtype == _PACKED)
    if found is None:
        blocks = "even blocks" if block is None else f"blocks of {block[0]} x {block[1]}"
        raise _other_shape(values, scales, blocks)
    return _quantised(values.name, shape, values, scales, found)


def _block_of(
    shape: tuple[int, ...],
    scales: tuple[int, ...],
    block: tuple[int, int] | None,
    is_packed: bool,
) -> tuple[int, int] | None:
    """The values of one scale. The configuration's block counts, the last of them perhaps cut short
    (DeepSeek-V3 has 576 rows in blocks of 128); where it names none, and of FP4 experts, which have
    blocks of their own, the scales' shape says it. None: the scales are not so many."""
    rows, columns = shape[-2:]
    if scales in ((), (1,)):
        return (rows, columns) if len(shape) == 2 else None
    if scales[:-2] != shape[:-2] or len(scales) < 2 or not all(scales):
        return None
    if block is not None and scales[-2:] == (-(-rows // block[0]), -(-columns // block[1])):
        return block
    if block is not None and not is_packed:
        return None
    if rows % scales[-2] or columns % scales[-1]:
        return None
    return rows // scales[-2], columns // scales[-1]


def _quantised(
    name: str,
    shape: tuple[int, ...],
    values: StoredTensor,
    scales: StoredTensor,
    block: tuple[int, int] | None,
) -> QuantisedTensor:
    place = values.file, name, "F32", shape, values.offset, values.num_bytes
    return QuantisedTensor(*place, values, scales, block)


def _other_shape(values: StoredTensor, scales: StoredTensor, expected: str) -> ModelError:
    return refused(
        values.file,
        f"{values.name} of {values.dtype} {list(values.shape)} has scales {scales.name} of "
        f"{scales.dtype} {list(scales.shape)}, expected {expected}; its config.json "
        "(quantization_config: weight_block_size) says another way of quantising than was used: "
        f"put that of its release there, or {AGAIN}",
    )


def quantised_words(tensors: Collection[StoredTensor]) -> Iterator[str]:
    """What is told of a folder's tensors as they read; nothing where none is quantised."""
    forms = Counter(tensor.words for tensor in tensors if isinstance(tensor, QuantisedTensor))
    if forms:
        told = ", ".join(f"{number} tensors of {words}" for words, number in forms.items())
        yield (
            f"{told} (of {len(tensors)}) are read as float32 by transformers' dequantisers; what "
            "is trained, saved and exported (`dougong export --dtype bfloat16`) is not quantised "
            "again"
        )


def is_scale(name: str) -> bool:
    """Whether a tensor's name says that others must be multiplied by it, or moved."""
    return _SCALE.search(name) is not None


def scale_refused(tensor: StoredTensor) -> ModelError:
    """The refusal of a scale that nobody reads."""
    return refused(
        tensor.file,
        f"holds {tensor.name} ({tensor.dtype}), a scale of quantised weights, and its config.json "
        "does not say of which and how (quantization_config): put that of its release back there; "
        "transformers would read the values without it",
    )


def _refuse_quantised(
    tensors: Mapping[str, StoredTensor], quantisation: Quantisation | None
) -> None:
    """Values that are read without their scales would be another model's."""
    for tensor in tensors.values():
        if quantisation is not None and quantisation.is_half(tensor):
            raise refused(
                tensor.file,
                f"{tensor.name} ({tensor.dtype}) is one of a pair of values and scales, and the "
                f"other is not stored as {quantisation.method} has it; {AGAIN}",
            )
        if tensor.dtype not in FLOATS and tensor.dtype not in INTEGERS:
            raise refused(
                tensor.file,
                f"{tensor.name} is stored as {tensor.dtype}, and its config.json does not say "
                "how it is quantised (quantization_config): put that of its release back there",
            )
        if tensor.dtype in INTEGERS and _WEIGHT.search(tensor.name):
            raise refused(
                tensor.file,
                f"{tensor.name} is stored as {tensor.dtype}, as quantised weights are, "
                f"{DEQUANTISE}",
            )
        if is_scale(tensor.name) and _scaled(tensor.name, tensors):
            raise scale_refused(tensor)


def _scaled(name: str, tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether the values that `name` scales are stored too."""
    stem = _SCALE.sub("", name)
    # A scale beside a tensor of any other name may be a parameter of the model.
    if stem.endswith("weight"):
        return stem in tensors
    return any(values.format(stem) in tensors for values in _SCALED)
