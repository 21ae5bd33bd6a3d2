"""Between a model's live tensors and a Hugging Face folder: names and values, by transformers' own
converters.

A *logical* tensor is what training owns: a dense tensor under its live name, or one expert's slice
of a parameter of an experts module, `<site>.<param>[<e>]`. On disk a family may keep it under other
names, split, transposed, one tensor per expert or one row of a tensor `[E, ...]`; `routes` finds
out which.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dougong.checkpoint.conversion import Converters
from dougong.checkpoint.manifest import ModelTensors
from dougong.checkpoint.routes import Piece, Route, dense_route, expert_route, refuse_shared
from dougong.checkpoint.tensorfile import FileLayout, plan_layout
from dougong.errors import ModelError
from dougong.models.transformers_internals import names_not_saved, strict_float32_names, tied_names

_EXPERT = re.compile(r"(.*)\[(\d+)\]")


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
    _routes: Mapping[str, Route]
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
        tied = tied_names(model)
        routes = {}
        for name, tensor in converters.in_order(_stored_state(model)):
            if name in tied:
                continue
            if name.rpartition(".")[0] in sites:
                routes[name] = expert_route(converters, name, tensor)
                _check_rows(name, tensor, num_experts)
            else:
                routes[name] = dense_route(converters, name, tensor)
        refuse_shared(routes.values())
        return Names(
            sites=tuple(sites),
            num_experts=num_experts,
            tied=tied,
            model_files=_model_files(model),
            keep_float32=_kept_in_float32(model, routes.values()),
            _routes=routes,
            _converters=converters,
        )

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(logical name, shape) of all that is stored, experts one by one; buffers too, tied names
        not."""
        for name, route in self._routes.items():
            if route.rows is None:
                yield name, route.shape
            else:
                for expert in range(route.rows):
                    yield f"{name}[{expert}]", route.shape

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
        """Files that many workers write between them, rows of tensors `[E, ...]`: one a site.

        Every worker finds the same layouts, since they depend on the model alone.
        """
        layouts = {}
        for number, site in enumerate(self.sites):
            fused = []
            for route in self._routes.values():
                if route.site == site:
                    fused += route.fused
            if fused:
                layouts[f"experts-{number:05d}.safetensors"] = plan_layout(fused)
        return layouts

    def to_disk(self, logical: str, tensor: Tensor) -> list[tuple[Piece, Tensor]]:
        """A logical tensor's values as they lie on disk; may be views of `tensor`. Raises
        `ModelError` on its shape."""
        route, expert = self._find(logical)
        _check_shape(f"{logical}: shape", tensor, route)
        if route.converter is None and expert is None:
            return [(route.pieces(None)[0], tensor)]
        # transformers converts whole parameters; one expert is a parameter of one row.
        whole = tensor if expert is None else tensor.unsqueeze(0)
        written = self._converters.revert(route.live, whole)
        found = []
        for stored in route.tensors:
            piece, values = stored.piece(expert), written[stored.disk.name]
            found.append((piece, values if piece.row is None else values[0]))
        return found

    def from_disk(self, logical: str, values: Mapping[str, Tensor]) -> Tensor:
        """The live values of a logical tensor from its pieces' values, by the pieces' names."""
        route, expert = self._find(logical)
        parts = []
        for stored in route.tensors:
            piece = stored.piece(expert)
            value = values[piece.name]
            parts.append((stored.pattern, value if piece.row is None else value.unsqueeze(0)))
        live = self._read(route, parts)
        if expert is not None:
            live = live[0]
        _check_shape(f"{logical}: reads as", live, route)
        return live

    def _read(self, route: Route, parts: list[tuple[str, Tensor]]) -> Tensor:
        if route.converter is None:
            return parts[0][1]
        return self._converters.convert(route.converter, route.live, parts)

    def _find(self, logical: str) -> tuple[Route, int | None]:
        name, expert = _split(logical)
        if name in self.tied:
            raise ModelError(
                f"{name}: tied to {self.tied[name]}, which is stored in its place; use that name"
            )
        route = self._routes.get(name)
        if route is None or not _has_row(route, expert):
            raise ModelError(
                f"{logical}: the model has no such tensor; `Names.tensors()` lists them"
            )
        return route, expert


def _check_shape(what: str, tensor: Tensor, route: Route) -> None:
    shape = tuple(tensor.shape)
    if shape != route.shape:
        raise ModelError(f"{what} {shape}, but the model has {route.shape}")


def _split(logical: str) -> tuple[str, int | None]:
    """The live name and the expert's number, None where a logical name carries none."""
    match = _EXPERT.fullmatch(logical)
    if match is None:
        return logical, None
    return match.group(1), int(match.group(2))


def _has_row(route: Route, expert: int | None) -> bool:
    if route.rows is None or expert is None:
        return route.rows is None and expert is None
    return expert < route.rows


def _stored_state(model: Any) -> dict[str, Tensor]:
    ignored = names_not_saved(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in ignored}


def _check_rows(name: str, tensor: Tensor, num_experts: int) -> None:
    if tensor.shape[0] < num_experts:
        raise ModelError(
            f"{name}: shape {tuple(tensor.shape)}, expected at least {num_experts} experts first"
        )


def _kept_in_float32(model: Any, routes: Iterable[Route]) -> tuple[str, ...]:
    pattern = strict_float32_names(model)
    if pattern is None:
        return ()
    kept = []
    for route in routes:
        if route.rows is None and pattern.search(route.live):
            kept += [tensor.disk.name for tensor in route.tensors]
    return tuple(sorted(kept))


def _model_files(model: Any) -> dict[str, str]:
    # As `save_pretrained` would write it, but for the dtype: master weights are float32.
    config = copy.deepcopy(model.config)
    config.dtype = "float32"
    config.architectures = [type(model).__name__]
    files = {"config.json": config.to_json_string(use_diff=True)}
    if model.can_generate() and getattr(model, "generation_config", None) is not None:
        files["generation_config.json"] = model.generation_config.to_json_string(use_diff=True)
    return files
