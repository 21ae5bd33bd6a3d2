"""transformers' conversions between live tensors and a family's own files, one tensor at a time.

`transformers.core_model_loading` converts whole state dicts; what it does to one key is repeated
here with its own parts. That module is documented nowhere, so it is used in this file alone, and a
test holds what is written and read here against what transformers writes and reads for every
family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
            return {_rename(live, self._back_renamings): tensor}
        converter = _by_pattern(self._back_converters)[pattern]
        if len(converter.source_patterns) > 1:
            raise ModelError(
                f"{live}: this family's files mix it with other tensors "
                f"({', '.join(converter.source_patterns)}), which one owner cannot write; "
                "such families are not supported"
            )
        # A converter gathers tensors until it has all of its sources; this one has a single source,
        # so it is whole at once and empty again after `convert`.
        converter.add_tensor(renamed, live, pattern, tensor)
        out = converter.convert(renamed, model=self._model, config=self._model.config)
        return {_rename(name, self._back_renamings): _single(value) for name, value in out.items()}

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
        for pattern, value in parts:
            converter.add_tensor(live, pattern, pattern, value)
        out = converter.convert(live, model=self._model, config=self._model.config)
        return _single(out[live])


def make_tables() -> None:
    """What transformers makes once in a process, for all families, in a fifth of a second."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("")


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
