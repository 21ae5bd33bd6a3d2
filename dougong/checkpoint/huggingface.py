"""Between a model's live tensors and a Hugging Face folder: names and values, by transformers' own
converters.

A *logical* tensor is what training owns: a dense tensor under its live name, or one expert's slice
of a parameter of an experts module, `<site>.<param>[<e>]`. On disk a family may keep it under other
names, split, transposed, one tensor per expert or one row of a tensor `[E, ...]`; which, is found
in `parameters`. A piece of a large dense tensor (`parallel.pieces`) is a span of the one on disk.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dougong.checkpoint.manifest import ModelTensors
from dougong.checkpoint.parameters import (
    ParameterOnDisk,
    Piece,
    adapter_on_disk,
    dense_on_disk,
    expert_on_disk,
    refuse_shared,
)
from dougong.checkpoint.stored_forms import absent_parameters, in_stored_form
from dougong.checkpoint.tensorfile import FileLayout, TensorSpan, plan_layout
from dougong.errors import ModelError
from dougong.job.schema import Model
from dougong.models.library.conversion import Converters
from dougong.models.library.transformers_internals import (
    names_not_saved,
    strict_float32_names,
    tied_names,
)
from dougong.models.peft_form import NO_ADAPTERS, Adapters, PeftTensor, adapters_of
from dougong.models.sites import Site
from dougong.models.stored.older_names import with_older_names
from dougong.ops.adapter_names import is_adapter
from dougong.parallel.pieces import OwnedPiece, piece_named

_EXPERT = re.compile(r"(.*)\[(\d+)\]")


@dataclass(frozen=True)
class Names:
    """The two-way map for one model. Make it by `Names.of`. For use by one thread.

    `model_files`: small files of the folder, by name, as text. `keep_float32`: tensors on disk that
    the family keeps in float32 even when the rest is bfloat16. `tied`: live names that are another
    tensor, which is stored in their place. `adapters`: in peft's form.
    """

    sites: tuple[str, ...]
    num_experts: int
    tied: Mapping[str, str]
    model_files: Mapping[str, str]
    keep_float32: tuple[str, ...]
    adapters: tuple[PeftTensor, ...]
    _parameters: Mapping[str, ParameterOnDisk]
    _aliases: Mapping[str, tuple[str, ...]]
    _converters: Converters = field(repr=False)

    @staticmethod
    def of(
        model: Any, sites: Sequence[str], num_experts: int, adapters: Adapters = NO_ADAPTERS
    ) -> Names:
        """The map of a transformers model, whose tensors may lie on meta. `sites` names its experts
        modules, `adapters` what files say of those that it has.

        The parameters that such a module itself holds are `[rows, ...]`, rows >= num_experts.
        Raises `ModelError` for a family whose files mix several live tensors, or that transformers
        would not read back under the same names.
        """
        converters = Converters(model)
        tied = tied_names(model)
        parameters = {}
        state, own = _without_adapters(_stored_state(model))
        for name, tensor in converters.in_order(state):
            if name in tied:
                continue
            if name.rpartition(".")[0] in sites:
                parameters[name] = expert_on_disk(converters, name, tensor)
                _check_rows(name, tensor, num_experts)
            else:
                parameters[name] = dense_on_disk(converters, name, state)
        for name, tensor in own.items():
            parameters[name] = adapter_on_disk(name, tuple(tensor.shape))
        refuse_shared(parameters.values())
        return Names(
            sites=tuple(sites),
            num_experts=num_experts,
            tied=tied,
            model_files={**_model_files(model), **adapters.files},
            adapters=adapters.tensors,
            keep_float32=_kept_in_float32(model, parameters.values()),
            _parameters=parameters,
            _aliases=_aliases_on_disk(converters, state, tied),
            _converters=converters,
        )

    def with_adapters(self, shapes: Mapping[str, tuple[int, ...]]) -> Names:
        """Of the model with adapters of these live names and shapes, of experts [E, ...]."""
        own = {name: adapter_on_disk(name, shape) for name, shape in shapes.items()}
        return dataclasses.replace(self, _parameters={**self._parameters, **own})

    @cached_property
    def without_adapters(self) -> Names:
        """Of the model as a folder has it that knows nothing of them."""
        own = {name: one for name, one in self._parameters.items() if not is_adapter(name)}
        return dataclasses.replace(self, _parameters=own)

    def as_stored(self, stored: Mapping[str, tuple[int, ...]]) -> Names:
        """The map for reading from a folder that may hold parameters in another form than they are
        written in. `stored`: the shapes of its tensors, by name."""
        absent = list(absent_parameters(self._parameters, self._aliases, stored))
        if not absent:
            return self
        found = in_stored_form(self._converters, self._parameters, absent, stored)
        return dataclasses.replace(self, _parameters={**self._parameters, **found})

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(logical name, shape) of all that is stored, experts one by one; buffers too, tied names
        not."""
        for name, parameter in self._parameters.items():
            if parameter.rows is None:
                yield name, parameter.shape
            else:
                for expert in range(parameter.rows):
                    yield f"{name}[{expert}]", parameter.shape

    def shape_of(self, logical: str) -> tuple[int, ...]:
        """Of a whole logical tensor."""
        return self._find(logical)[0].shape

    def describe(self) -> ModelTensors:
        """All logical tensors in brief, for a manifest."""
        dense, experts = {}, {}
        for name, parameter in self._parameters.items():
            if parameter.rows is None:
                dense[name] = parameter.shape
            else:
                experts[name] = (parameter.rows, *parameter.shape)
        return ModelTensors(dense, experts)

    def pieces(self, logical: str) -> tuple[Piece, ...]:
        """Where a logical tensor, or a piece of one by its name, lies on disk, in the order that
        `to_disk` uses."""
        part = piece_named(logical)
        if part is not None:
            return (self._span_on_disk(part),)
        parameter, expert = self._find(logical)
        return parameter.pieces(expert)

    def span(self, part: OwnedPiece) -> TensorSpan:
        """A piece of a live tensor. Raises `ModelError` where the model has no such tensor, or it
        is not as large."""
        parameter, _ = self._find(part.tensor)
        if not 0 <= part.begin < part.end <= math.prod(parameter.shape):
            raise ModelError(f"{part.name}: the model's tensor has shape {parameter.shape}")
        return TensorSpan(part.begin, part.end, parameter.shape)

    def _span_on_disk(self, part: OwnedPiece) -> Piece:
        span = self.span(part)
        parameter, _ = self._find(part.tensor)
        if not _has_its_own_tensor(parameter):
            raise ModelError(
                f"{part.name}: files have {part.tensor} in another form, so that no piece of it "
                "can be written alone; such a tensor stays whole"
            )
        (whole,) = parameter.pieces(None)
        return Piece(whole.disk, None, TensorSpan(span.begin, span.end, whole.disk.shape))

    def is_stored_alike(self, tensor: str) -> bool:
        """Whether a dense tensor has the same values on disk in the same order."""
        parameter = self._parameters.get(tensor)
        return parameter is None or _has_its_own_tensor(parameter)

    def file_of_pieces(self, tensor: str) -> tuple[str, FileLayout]:
        """The file that the owners of a dense tensor's pieces, or of those that are joined to it,
        write between them, which holds one tensor alone, and how it is laid out: the same for every
        worker."""
        parameter, _ = self._find(tensor)
        (whole,) = parameter.pieces(None)
        number = self._number_of(whole.name)
        return f"dense-{number:05d}.safetensors", plan_layout([whole.disk])

    def _number_of(self, disk: str) -> int:
        """Of a dense tensor on disk, among all parameters: that of the first that lies in it."""
        parameters = enumerate(self._parameters.values())
        return next(n for n, one in parameters if one.tensors[0].disk.name == disk)

    def aliases(self, logical: str) -> tuple[str, ...]:
        """The names on disk of what is tied to a logical tensor: a folder may hold them as well, or
        instead of it."""
        return self._aliases.get(logical, ())

    def shared_files(self) -> dict[str, FileLayout]:
        """Files that many workers write between them, rows of tensors `[E, ...]`: one a site.

        Every worker finds the same layouts, since they depend on the model alone.
        """
        layouts = {}
        for number, site in enumerate(self.sites):
            fused = []
            for parameter in self._parameters.values():
                if parameter.site == site:
                    fused += parameter.fused
            if fused:
                layouts[f"experts-{number:05d}.safetensors"] = plan_layout(fused)
        return layouts

    def to_disk(self, logical: str, tensor: Tensor) -> list[tuple[Piece, Tensor]]:
        """A logical tensor's values, or a piece's, as they lie on disk; may be views of `tensor`.
        Raises `ModelError` on its shape."""
        part = piece_named(logical)
        if part is not None:
            place = self._span_on_disk(part)
            _check_piece(f"{logical}: shape", tensor, place)
            return [(place, tensor)]
        parameter, expert = self._find(logical)
        _check_shape(f"{logical}: shape", tensor, parameter)
        if is_adapter(logical):
            (place,) = parameter.pieces(expert)
            return [(place, tensor)]
        if parameter.converter is None and expert is None:
            (place,) = parameter.pieces(None)
            if parameter.joined is not None:
                tensor = parameter.joined.to_disk(parameter.live, tensor)
            return [(place, tensor)]
        # transformers converts whole parameters; one expert is a parameter of one row.
        whole = tensor if expert is None else tensor.unsqueeze(0)
        written = self._converters.revert(parameter.live, whole)
        found = []
        for stored in parameter.tensors:
            piece, values = stored.piece(expert), written[stored.disk.name]
            found.append((piece, values if piece.row is None else values[0]))
        return found

    def from_disk(self, logical: str, values: Mapping[str, Tensor]) -> Tensor:
        """The live values of a logical tensor, or of a piece of one, from those of its places on
        disk, by their names."""
        part = piece_named(logical)
        if part is not None:
            place = self._span_on_disk(part)
            _check_piece(f"{logical}: reads as", values[place.name], place)
            return values[place.name]
        parameter, expert = self._find(logical)
        parts = []
        for stored in parameter.tensors:
            piece = stored.piece(expert)
            value = values[piece.name]
            parts.append((stored.pattern, value if piece.row is None else value.unsqueeze(0)))
        live = self._read(parameter, parts)
        if parameter.joined is not None:
            _check_piece(f"{logical}: reads as", live, parameter.pieces(None)[0])
            return parameter.joined.from_disk(parameter.live, live)
        if expert is not None:
            live = live[0]
        _check_shape(f"{logical}: reads as", live, parameter)
        return live

    def also_reads(self, logical: str, shape: tuple[int, ...]) -> bool:
        """Whether transformers reads a logical tensor from a tensor on disk of another shape than
        it is written with: some families' first releases hold their experts transposed."""
        if piece_named(logical) is not None:
            return False
        parameter, expert = self._find(logical)
        if parameter.converter is None or len(parameter.tensors) != 1 or not shape:
            return False
        rows = shape if expert is None else (1, *shape[1:])
        stored = torch.empty(rows, device="meta")
        live = self._read(parameter, [(parameter.tensors[0].pattern, stored)])
        return tuple(live.shape if expert is None else live.shape[1:]) == parameter.shape

    def _read(self, parameter: ParameterOnDisk, parts: list[tuple[str, Tensor]]) -> Tensor:
        if parameter.converter is None:
            return parts[0][1]
        return self._converters.convert(parameter.converter, parameter.live, parts)

    def _find(self, logical: str) -> tuple[ParameterOnDisk, int | None]:
        name, expert = _split(logical)
        if name in self.tied:
            raise ModelError(
                f"{name}: tied to {self.tied[name]}, which is stored in its place; use that name"
            )
        parameter = self._parameters.get(name)
        if parameter is None or not _has_row(parameter, expert):
            raise ModelError(
                f"{logical}: the model has no such tensor; `Names.tensors()` lists them"
            )
        return parameter, expert


def names_of(network: Any, sites: Sequence[Site], model: Model) -> Names:
    """The map of a job's model, with the adapters that it has."""
    adapters = adapters_of(network, sites, model)
    return Names.of(network, [site.name for site in sites], sites[0].num_experts, adapters)


def _has_its_own_tensor(parameter: ParameterOnDisk) -> bool:
    """Whether a file has a dense tensor with the same values in the same order, and nothing else in
    it."""
    is_dense = parameter.rows is None and parameter.converter is None
    return is_dense and parameter.joined is None


def _check_shape(what: str, tensor: Tensor, parameter: ParameterOnDisk) -> None:
    shape = tuple(tensor.shape)
    if shape != parameter.shape:
        raise ModelError(f"{what} {shape}, but the model has {parameter.shape}")


def _check_piece(what: str, tensor: Tensor, place: Piece) -> None:
    if tuple(tensor.shape) != place.shape:
        raise ModelError(f"{what} {tuple(tensor.shape)}, but the piece has {place.shape}")


def _split(logical: str) -> tuple[str, int | None]:
    """The live name and the expert's number, None where a logical name carries none."""
    match = _EXPERT.fullmatch(logical)
    if match is None:
        return logical, None
    return match.group(1), int(match.group(2))


def _has_row(parameter: ParameterOnDisk, expert: int | None) -> bool:
    if parameter.rows is None or expert is None:
        return parameter.rows is None and expert is None
    return expert < parameter.rows


def _stored_state(model: Any) -> dict[str, Tensor]:
    ignored = names_not_saved(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in ignored}


def _without_adapters(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is the family's own, and what transformers' converters know nothing of."""
    own = {name: tensor for name, tensor in state.items() if not is_adapter(name)}
    return own, {name: tensor for name, tensor in state.items() if is_adapter(name)}


def _aliases_on_disk(
    converters: Converters, state: Mapping[str, Tensor], tied: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """By live name: what transformers would call on disk the tensors that are tied to it."""
    aliases: dict[str, tuple[str, ...]] = {}
    for name, source in tied.items():
        if name in state:
            aliases[source] = (*aliases.get(source, ()), *converters.revert(name, state[name]))
    return aliases


def _check_rows(name: str, tensor: Tensor, num_experts: int) -> None:
    if tensor.shape[0] < num_experts:
        raise ModelError(
            f"{name}: shape {tuple(tensor.shape)}, expected at least {num_experts} experts first"
        )


def _kept_in_float32(model: Any, parameters: Iterable[ParameterOnDisk]) -> tuple[str, ...]:
    pattern = strict_float32_names(model)
    if pattern is None:
        return ()
    kept = []
    for parameter in parameters:
        if parameter.rows is None and pattern.search(parameter.live):
            kept += [tensor.disk.name for tensor in parameter.tensors]
    return tuple(sorted(kept))


def _model_files(model: Any) -> dict[str, str]:
    # As `save_pretrained` would write it, but for the dtype: master weights are float32.
    config = copy.deepcopy(model.config)
    config.dtype = "float32"
    config.architectures = [type(model).__name__]
    values = json.loads(config.to_json_string(use_diff=True))
    values = with_older_names(values, config.attribute_map)
    files = {"config.json": json.dumps(values, indent=2, sort_keys=True) + "\n"}
    if model.can_generate() and getattr(model, "generation_config", None) is not None:
        files["generation_config.json"] = model.generation_config.to_json_string(use_diff=True)
    return files
