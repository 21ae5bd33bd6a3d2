"""Between a model's live tensors and a Hugging Face folder: names and values, by transformers' own
converters.

A *logical* tensor is what training owns: a dense tensor under its live name, or one expert's slice
of a parameter of an experts module, `<site>.<param>[<e>]`. On disk a family may keep it under other
names, split, transposed, one tensor per expert or one row of a tensor `[E, ...]`. Which, is found
by asking transformers with slices of one, two and three experts on the meta device; no family is
known by name here.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dougong.checkpoint.conversion import Converters
from dougong.checkpoint.manifest import ModelTensors
from dougong.checkpoint.tensorfile import FileLayout, TensorShape, plan_layout
from dougong.errors import ModelError

_EXPERT = re.compile(r"(.*)\[(\d+)\]")
_DIGITS = re.compile(r"(\d+)")
_SAFETENSORS_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
TORCH_DTYPES = {word: dtype for dtype, word in _SAFETENSORS_DTYPES.items()}


def stored_dtype(dtype: torch.dtype) -> str:
    """Floating point is stored as float32 (master weights), integers and booleans as they are."""
    return "F32" if dtype.is_floating_point else _SAFETENSORS_DTYPES[dtype]


@dataclass(frozen=True)
class Piece:
    """A place on disk. `row` None: the whole tensor `disk`; else that row of it (`disk.shape` is
    then `[E, ...]`)."""

    disk: TensorShape
    row: int | None

    @property
    def name(self) -> str:
        return self.disk.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what is stored here: the whole tensor, or one row."""
        return self.disk.shape if self.row is None else self.disk.shape[1:]


@dataclass(frozen=True)
class _Route:
    """How one live parameter goes to disk. `templates`: per disk tensor of one expert 0, where its
    numeral stands."""

    live: str
    shape: tuple[int, ...]
    dtype: str
    rows: int | None
    disk: tuple[TensorShape, ...]
    numerals: tuple[int | None, ...] = ()
    forward: Any = None
    patterns: tuple[str, ...] = ()

    def pieces(self, expert: int | None) -> tuple[Piece, ...]:
        if expert is None:
            return tuple(Piece(disk, None) for disk in self.disk)
        found = []
        for disk, numeral in zip(self.disk, self.numerals, strict=True):
            if numeral is None:
                found.append(Piece(disk, expert))
            else:
                words = _DIGITS.split(disk.name)
                words[numeral] = str(expert)
                found.append(Piece(TensorShape("".join(words), disk.dtype, disk.shape), None))
        return tuple(found)


@dataclass(frozen=True)
class Names:
    """The two-way map for one model. Make it by `Names.of`. For use by one thread.

    `model_files`: small files of the folder, by name, as text. `keep_float32`: tensors on disk that
    the family keeps in float32 even when the rest is bfloat16. `tied`: live names that are another
    tensor, which is stored in their place.
    """

    sites: tuple[str, ...]
    num_experts: int
    tied: Mapping[str, str]
    model_files: Mapping[str, str]
    keep_float32: tuple[str, ...]
    _routes: Mapping[str, _Route]
    _converters: Converters = field(repr=False)

    @staticmethod
    def of(model: Any, sites: Sequence[str], num_experts: int) -> Names:
        """The map of a transformers model, whose tensors may lie on meta. `sites` names its experts
        modules.

        The parameters that such a module itself holds are `[rows, ...]`, rows >= num_experts.
        Raises `ModelError` for a family whose files mix several live tensors, or that transformers
        would not read back under the same names.
        """
        converters = Converters(model)
        tied = _tied(model)
        routes = {}
        for name, tensor in converters.in_order(_state(model)):
            if name in tied:
                continue
            is_expert = name.rpartition(".")[0] in sites
            routes[name] = (
                _expert_route(converters, name, tensor)
                if is_expert
                else _dense(converters, name, tensor)
            )
            if is_expert and tensor.shape[0] < num_experts:
                raise ModelError(
                    f"{name}: shape {tuple(tensor.shape)}, expected at least {num_experts} experts first"
                )
        _refuse_shared(routes.values())
        keep = _strict_float32(model, routes.values())
        return Names(tuple(sites), num_experts, tied, _model_files(model), keep, routes, converters)

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(logical name, shape) of all that is stored, experts one by one; buffers too, tied names
        not."""
        for name, route in self._routes.items():
            if route.rows is None:
                yield name, route.shape
            else:
                yield from ((f"{name}[{e}]", route.shape) for e in range(route.rows))

    def describe(self) -> ModelTensors:
        """All logical tensors in brief, for a manifest."""
        dense, experts = {}, {}
        for name, route in self._routes.items():
            if route.rows is None:
                dense[name] = route.shape
            else:
                experts[name] = (route.rows, *route.shape)
        return ModelTensors(dense, experts)

    def pieces(self, logical: str) -> tuple[Piece, ...]:
        """Where a logical tensor lies on disk, in the order that `to_disk` uses."""
        route, expert = self._find(logical)
        return route.pieces(expert)

    def shared_files(self) -> dict[str, FileLayout]:
        """Files that many workers write between them, rows of tensors `[E, ...]`: one a site, alike
        for all."""
        layouts = {}
        for number, site in enumerate(self.sites):
            fused = [
                disk
                for route in self._routes.values()
                if route.live.rpartition(".")[0] == site
                for disk, numeral in zip(route.disk, route.numerals, strict=True)
                if numeral is None
            ]
            if fused:
                layouts[f"experts-{number:05d}.safetensors"] = plan_layout(fused)
        return layouts

    def to_disk(self, logical: str, tensor: Tensor) -> list[tuple[Piece, Tensor]]:
        """A logical tensor's values as they lie on disk; may be views of `tensor`. Raises
        `ModelError` on its shape."""
        route, expert = self._find(logical)
        if tuple(tensor.shape) != route.shape:
            raise ModelError(
                f"{logical}: shape {tuple(tensor.shape)}, but the model has {route.shape}"
            )
        if route.forward is None and expert is None:
            return [(route.pieces(None)[0], tensor)]
        out = self._converters.revert(route.live, tensor if expert is None else tensor.unsqueeze(0))
        values = [out[disk.name] for disk in route.disk]
        if expert is not None:
            values = [
                v if n is not None else v[0] for v, n in zip(values, route.numerals, strict=True)
            ]
        return list(zip(route.pieces(expert), values, strict=True))

    def from_disk(self, logical: str, values: Mapping[str, Tensor]) -> Tensor:
        """The live values of a logical tensor from its pieces' values, by the pieces' names."""
        route, expert = self._find(logical)
        pieces = route.pieces(expert)
        parts = [
            values[p.name].unsqueeze(0) if p.row is not None else values[p.name] for p in pieces
        ]
        if route.forward is None:
            return parts[0] if expert is None else parts[0][0]
        live = self._converters.convert(
            route.forward, route.live, list(zip(route.patterns, parts, strict=True))
        )
        if expert is not None:
            live = live[0]
        if tuple(live.shape) != route.shape:
            raise ModelError(
                f"{logical}: reads as {tuple(live.shape)}, but the model has {route.shape}"
            )
        return live

    def _find(self, logical: str) -> tuple[_Route, int | None]:
        match = _EXPERT.fullmatch(logical)
        name, expert = (match.group(1), int(match.group(2))) if match else (logical, None)
        route = self._routes.get(name)
        if route is None and name in self.tied:
            raise ModelError(
                f"{name}: tied to {self.tied[name]}, which is stored in its place; use that name"
            )
        if (
            route is None
            or (route.rows is None) != (expert is None)
            or (expert or 0) >= (route.rows or 1)
        ):
            raise ModelError(
                f"{logical}: the model has no such tensor; `Names.tensors()` lists them"
            )
        return route, expert


def _state(model: Any) -> dict[str, Tensor]:
    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    return {name: tensor for name, tensor in model.state_dict().items() if name not in ignored}


def _tied(model: Any) -> dict[str, str]:
    declared = getattr(model, "all_tied_weights_keys", None) or {}
    find = model.get_parameter_or_buffer
    return {name: source for name, source in declared.items() if find(name) is find(source)}


def _dense(converters: Converters, name: str, tensor: Tensor) -> _Route:
    meta = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    out = converters.revert(name, meta)
    dtype = stored_dtype(tensor.dtype)
    disk = tuple(TensorShape(n, dtype, tuple(t.shape)) for n, t in out.items())
    route = _Route(name, tuple(tensor.shape), dtype, None, disk, (None,) * len(disk))
    return _with_forward(converters, route)


def _expert_route(converters: Converters, name: str, tensor: Tensor) -> _Route:
    """Ask with 1, 2 and 3 experts: a name that comes with each more is one expert's; a stable one
    has rows."""
    rows, shape = int(tensor.shape[0]), tuple(tensor.shape[1:])
    one, two, three = (
        converters.revert(name, torch.empty((n, *shape), dtype=tensor.dtype, device="meta"))
        for n in (1, 2, 3)
    )
    dtype = stored_dtype(tensor.dtype)
    second, third = [n for n in two if n not in one], [n for n in three if n not in two]
    disk: list[TensorShape] = []
    numerals: list[int | None] = []
    for first in one:
        numeral = _numeral(first, second, third)
        is_fused = numeral is None and [t[first].shape[:1] for t in (one, two, three)] == [
            (1,),
            (2,),
            (3,),
        ]
        if numeral is None and not is_fused:
            raise ModelError(
                f"{name}: on disk {first} is neither one expert's nor has experts' rows; not supported"
            )
        row_shape = tuple(one[first].shape)
        disk.append(TensorShape(first, dtype, (rows, *row_shape[1:]) if is_fused else row_shape))
        numerals.append(numeral)
    if len(two) != len(one) + len(second) or len(second) != sum(n is not None for n in numerals):
        raise ModelError(
            f"{name}: its experts' names on disk follow no pattern: {sorted(two)}; not supported"
        )
    route = _Route(name, shape, dtype, rows, tuple(disk), tuple(numerals))
    return _with_forward(converters, route)


def _numeral(first: str, second: list[str], third: list[str]) -> int | None:
    """Where expert 0's name carries its number: the names of experts 1 and 2 differ from it there
    alone."""
    words = _DIGITS.split(first)
    for place in range(1, len(words), 2):
        others = ["".join([*words[:place], number, *words[place + 1 :]]) for number in "12"]
        if words[place] == "0" and others[0] in second and others[1] in third:
            return place
    return None


def _with_forward(converters: Converters, route: _Route) -> _Route:
    """Add how transformers reads the pieces back; it must come to the same live name by one
    converter."""
    ways = [converters.forward(disk.name) for disk in route.disk]
    strays = [
        f"{d.name} as {live}"
        for d, (live, _, _) in zip(route.disk, ways, strict=True)
        if live != route.live
    ]
    used = {id(converter): converter for _, converter, _ in ways}
    converter = next(iter(used.values()))
    if strays or len(used) > 1 or (converter is None and len(route.disk) > 1):
        raise ModelError(
            f"{route.live}: transformers would not read back what it writes: {', '.join(strays) or ways}"
        )
    return dataclasses.replace(
        route, forward=converter, patterns=tuple(pattern for _, _, pattern in ways)
    )


def _refuse_shared(routes: Any) -> None:
    owner: dict[str, str] = {}
    for route in routes:
        for disk in route.disk:
            if disk.name in owner:
                raise ModelError(
                    f"{disk.name}: on disk it mixes {owner[disk.name]} and {route.live}; not supported"
                )
            owner[disk.name] = route.live


def _strict_float32(model: Any, routes: Any) -> tuple[str, ...]:
    words = [re.escape(m) for m in getattr(model, "_keep_in_fp32_modules_strict", None) or ()]
    pattern = re.compile(rf"(^|\.)({'|'.join(words)})($|\.)") if words else None
    kept = [r for r in routes if pattern and r.rows is None and pattern.search(r.live)]
    return tuple(sorted(disk.name for route in kept for disk in route.disk))


def _model_files(model: Any) -> dict[str, str]:
    config = copy.deepcopy(model.config)
    config.dtype = "float32"
    config.architectures = [type(model).__name__]
    files = {"config.json": config.to_json_string(use_diff=True)}
    if model.can_generate() and getattr(model, "generation_config", None) is not None:
        files["generation_config.json"] = model.generation_config.to_json_string(use_diff=True)
    return files
