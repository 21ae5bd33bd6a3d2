"""transformers' conversions between live tensors and a family's own files, one tensor at a time.

`transformers.core_model_loading` converts whole state dicts; what it does to one key is repeated
here with its own parts. That module is documented nowhere, so it is used in this file alone, and a
test holds what is written and read here against what transformers writes and reads for every
family.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dougong.errors import ModelError
from dougong.models.library.transformers_internals import recorded_conversions


@dataclass(frozen=True)
class Reading:
    """How transformers reads one tensor on disk: to which live name, and by which of its converters
    (None: as it is), to which it is known by `pattern`."""

    live: str
    converter: Any
    pattern: str


@dataclass(frozen=True)
class _Way:
    """One of transformers' converters, for some tensors; `patterns`: by which it knows each."""

    converter: Any
    renamed: str
    patterns: Mapping[str, str]
    model: Any
    rename: Callable[[str], str]

    def __call__(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = [(name, pattern, values[name]) for name, pattern in self.patterns.items()]
        out = _converted(self.converter, self.renamed, named, self.model)
        return {self.rename(name): value for name, value in out.items()}


@dataclass(frozen=True)
class Joined:
    """Live tensors that a family keeps one behind the other in one tensor on disk, as the rows of
    fused projections, each perhaps permuted within itself.

    `disk`: that tensor's name; `shape`: its shape; `parts`: shapes by live name, in order.
    """

    disk: str
    shape: tuple[int, ...]
    parts: Mapping[str, tuple[int, ...]]
    _back: _Way = field(repr=False)
    _forth: _Way = field(repr=False)

    def range_of(self, live: str) -> tuple[int, int]:
        """The elements of the tensor on disk that are one live tensor's."""
        sizes = {name: math.prod(shape) for name, shape in self.parts.items()}
        before = itertools.takewhile(lambda name: name != live, sizes)
        begin = sum(sizes[name] for name in before)
        return begin, begin + sizes[live]

    def to_disk(self, live: str, values: Tensor) -> Tensor:
        """One live tensor as it lies in its place, flat."""
        begin, end = self.range_of(live)
        return self._whole(live, values).reshape(-1)[begin:end]

    def from_disk(self, live: str, values: Tensor) -> Tensor:
        """The live tensor from its part, flat."""
        begin, end = self.range_of(live)
        whole = values.new_zeros(math.prod(self.shape))
        whole[begin:end] = values
        return self._forth({self.disk: whole.view(self.shape)})[live]

    def _whole(self, live: str, values: Tensor) -> Tensor:
        """Zeros in the others' places."""
        zeros = {n: values.new_zeros(()).expand(shape) for n, shape in self.parts.items()}
        return self._back({**zeros, live: values})[self.disk]

    def is_apart(self, live: str) -> bool:
        """Whether a live tensor's values lie in its own place alone, and come back from there."""
        if self._forth.converter is None:
            return False
        begin, end = self.range_of(live)
        ones = torch.ones(self.parts[live], device="cpu")
        outside = self._whole(live, ones).reshape(-1).clone()
        outside[begin:end] -= 1
        numbered = torch.arange(ones.numel(), dtype=torch.float32, device="cpu").view(ones.shape)
        back = self.from_disk(live, self.to_disk(live, numbered))
        return not outside.any() and torch.equal(back, numbered)


class Converters:
    """transformers' conversions of one model, both ways, each prepared once."""

    def __init__(self, model: Any) -> None:
        from transformers import core_model_loading as loading
        from transformers.conversion_mapping import get_model_conversion_mapping

        self._loading = loading
        self._model = model
        self._live = dict.fromkeys(model.state_dict(), True)
        used = recorded_conversions(model)
        if used is None:
            used = self._unread(get_model_conversion_mapping(model, add_legacy=False))
        # What was done last when reading is undone first.
        back = [conversion.reverse_transform() for conversion in used[::-1]]
        self._back_renamings, self._back_converters = self._split(back)
        forward = get_model_conversion_mapping(model)
        self._renamings, self._forward_converters = self._split(forward)
        self._proved: set[tuple[str, tuple[tuple[int, ...], ...]]] = set()

    def _unread(self, conversions: list[Any]) -> list[Any]:
        """The conversions that count for a model that was not read from a folder.

        As transformers' `revert_weight_conversion` has it: a change of prefix says how files of
        other classes are read, not how those of this one are written.
        """
        return [c for c in conversions if not isinstance(c, self._loading.PrefixChange)]

    def in_order(self, state: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
        """Sorted as transformers does it; some renamings depend on it."""
        return sorted(state.items(), key=lambda item: self._loading.dot_natural_key(item[0]))

    def _split(self, conversions: list[Any]) -> tuple[list[Any], list[Any]]:
        renamings = [c for c in conversions if isinstance(c, self._loading.WeightRenaming)]
        return renamings, [c for c in conversions if isinstance(c, self._loading.WeightConverter)]

    def revert(self, live: str, tensor: Tensor) -> dict[str, Tensor]:
        """What transformers would save for one live tensor."""
        renamed, pattern = _first_match(live, self._back_converters)
        if pattern is None:
            return {self._name_on_disk(live): tensor}
        converter = _by_pattern(self._back_converters)[pattern]
        if len(converter.source_patterns) > 1:
            raise _mixed(live, converter)
        # A converter gathers tensors until it has all of its sources; this one has a single source,
        # so it is whole at once and empty again after `convert`.
        model = _WithRows(self._model, tensor)
        out = _converted(converter, renamed, [(live, pattern, tensor)], model)
        return {self._name_on_disk(name): value for name, value in out.items()}

    def joined(self, live: str, state: Mapping[str, Tensor]) -> Joined | None:
        """The tensor on disk of which a live one is a part; None where it is alone. `state`: all
        live tensors, which may lie on meta.

        Raises `ModelError` where the family mixes their values.
        """
        renamed, pattern = _first_match(live, self._back_converters)
        if pattern is None:
            return None
        converter = _by_pattern(self._back_converters)[pattern]
        patterns = converter.source_patterns
        if len(patterns) == 1:
            return None
        before = live.removesuffix(pattern)
        parts = {f"{before}{other}": other for other in patterns}
        if not live.endswith(pattern) or not parts.keys() <= state.keys():
            raise _mixed(live, converter)
        back = _Way(converter, renamed, parts, self._model, self._name_on_disk)
        shapes = {part: tuple(state[part].shape) for part in parts}
        metas = {part: torch.empty(shape, device="meta") for part, shape in shapes.items()}
        ((disk, whole),) = back(metas).items()
        reading = self.reading(disk)
        of_disk = {disk: reading.pattern}
        forth = _Way(reading.converter, reading.live, of_disk, self._model, lambda name: name)
        found = Joined(disk, tuple(whole.shape), shapes, back, forth)
        self._prove(found, live, pattern, converter)
        return found

    def _prove(self, joined: Joined, live: str, pattern: str, converter: Any) -> None:
        """Once for all layers."""
        proof = pattern, tuple(joined.parts.values())
        if proof not in self._proved and not joined.is_apart(live):
            raise _mixed(live, converter)
        self._proved.add(proof)

    def _name_on_disk(self, name: str) -> str:
        return _rename(name, self._back_renamings)

    def reading(self, disk: str) -> Reading:
        """How transformers would read a tensor on disk."""
        prefix = self._model.base_model_prefix
        rename = self._loading.rename_source_key
        live, pattern = rename(disk, self._renamings, self._forward_converters, prefix, self._live)
        if live not in self._live and disk in self._live:
            # A renaming meant for an older release's files has caught a name of today's.
            live, pattern = rename(
                disk, [], [], base_model_prefix=prefix, meta_state_dict=self._live
            )
        if pattern is None:
            return Reading(live, None, disk)
        return Reading(live, _by_pattern(self._forward_converters)[pattern], pattern)

    def convert(self, converter: Any, live: str, parts: list[tuple[str, Tensor]]) -> Tensor:
        """The live tensor from what lies on disk. `parts`: (converter's pattern, values) in
        order."""
        model = _WithRows(self._model, parts[0][1])
        named = [(pattern, pattern, value) for pattern, value in parts]
        return _converted(converter, live, named, model)[live]


class _WithRows:
    """A model as one is that has as many experts as a tensor has rows: some converters look at a
    parameter's shape, and are given one expert's row here where transformers gives them all."""

    def __init__(self, model: Any, tensor: Tensor) -> None:
        self._model, self._tensor = model, tensor

    def get_parameter(self, name: str) -> Tensor:
        parameter: Tensor = self._model.get_parameter(name)
        is_alike = 0 < parameter.dim() == self._tensor.dim()
        return parameter[: self._tensor.shape[0]] if is_alike else parameter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def make_tables() -> None:
    """What transformers makes once in a process, for all families, in a fifth of a second."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("")


def _mixed(live: str, converter: Any) -> ModelError:
    return ModelError(
        f"{live}: this family's files mix it with other tensors "
        f"({', '.join(converter.source_patterns)}), which one owner cannot write; "
        "such families are not supported"
    )


def _converted(
    converter: Any, renamed: str, values: Iterable[tuple[str, str, Tensor]], model: Any
) -> dict[str, Tensor]:
    """What a converter makes of some tensors, each with its name and the converter's pattern of
    it."""
    for name, pattern, value in values:
        converter.add_tensor(renamed, name, pattern, value)
    out = converter.convert(renamed, model=model, config=model.config)
    return {name: _single(value) for name, value in out.items()}


def _rename(name: str, renamings: list[Any]) -> str:
    """Through every renaming in turn (`apply_renamings` of newer releases of transformers)."""
    for renaming in renamings:
        name, _ = renaming.rename_source_key(name)
    return name


def _first_match(name: str, converters: list[Any]) -> tuple[str, str | None]:
    """The name after the one converter that takes it, and that one's pattern; the name itself and
    None where no converter does."""
    for converter in converters:
        renamed, pattern = converter.rename_source_key(name)
        if pattern is not None:
            return renamed, pattern
    return name, None


def _by_pattern(converters: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for converter in converters:
        found.update(dict.fromkeys(converter.source_patterns, converter))
    return found


def _single(value: Any) -> Tensor:
    tensor = value[0] if isinstance(value, list) else value
    assert isinstance(tensor, Tensor)
    return tensor
