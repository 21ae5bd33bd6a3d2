"""Whose a stored tensor is: of which expert, of which layer. By its name and shape alone, in the
forms in which transformers' families are saved. Imports no torch.

One tensor for each expert (`model.layers.3.mlp.experts.7.up_proj.weight`, Qwen, DeepSeek, Mixtral's
`w1`), or one of all experts, of which each has a row (`model.layers.3.mlp.experts.gate_up_proj`,
gpt-oss, Llama-4; Granite's `block_sparse_moe.input_linear.weight`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dougong.job.rule import EXPERT_COUNT_KEYS, TEXT_PART
from dougong.ops.adapter_names import is_adapter

_OF_ONE = re.compile(r"(?P<site>.*\bexperts|.*_experts)\.(?P<expert>\d+)\.(?P<part>.+)")
_OF_ALL = re.compile(r"(?P<site>.*\bexperts|.*_experts)\.(?P<part>.+)")
_IN_A_BLOCK = re.compile(r"(?P<site>.+)\.(?P<part>[^.]+\.weight)")
_BY_NAME = re.compile(
    r"(gate_up_proj|gate_proj|up_proj|down_proj|input_linear|output_linear|fc[12]|w[123]|w13)"
    r"(?P<rest>([._]\w+)*)"
)
"""What an expert's tensors are called, of which each expert has a row."""
_FOR_EACH = re.compile(r"bias|scale|blocks")
_NOT_ROUTED = re.compile(r"shared|residual")
_A_MATRIX_FOR_EACH = 3


@dataclass(frozen=True)
class ExpertPlace:
    """`site`: of which experts, as the model calls them; `part`: which of an expert's tensors;
    `expert`: whose, None where each has a row of it."""

    site: str
    part: str
    expert: int | None


def place_of(name: str, shape: tuple[int, ...], counts: Collection[int]) -> ExpertPlace | None:
    """Where a tensor belongs; None: to no expert. `counts`: of the experts of a layer, as far as
    the configuration says. A tensor that is called as an expert's belongs to them with any number
    of rows: some may be lost."""
    if _NOT_ROUTED.search(name) or is_adapter(name):
        return None
    found = _OF_ONE.fullmatch(name)
    if found is not None:
        return ExpertPlace(found["site"], found["part"], int(found["expert"]))
    found = _OF_ALL.fullmatch(name)
    if found is not None and len(shape) >= 2:
        is_of_all = not counts or shape[0] in counts or _is_row_each(found["part"], shape)
        return ExpertPlace(found["site"], found["part"], None) if is_of_all else None
    found = _IN_A_BLOCK.fullmatch(name)
    if found is None or len(shape) != _A_MATRIX_FOR_EACH:
        return None
    if shape[0] not in counts and not _is_row_each(found["part"], shape):
        return None
    # A convolution has a matrix for each channel, too, but a small one.
    is_matrix = min(shape[1:]) > 1 and "conv" not in name
    return ExpertPlace(found["site"], found["part"], None) if is_matrix else None


def _is_row_each(part: str, shape: tuple[int, ...]) -> bool:
    """Whether the name says that each expert has a row; all of them may lie end to end in a
    matrix."""
    found = _BY_NAME.fullmatch(part)
    if found is None:
        return False
    return len(shape) >= _A_MATRIX_FOR_EACH or _FOR_EACH.search(found["rest"]) is not None


def expert_counts(config: Mapping[str, Any]) -> frozenset[int]:
    """What a configuration, or one inside of it, says of the number of a layer's experts."""
    found: set[int] = set()
    for said in counts_said(config):
        found.update(said.values())
    return frozenset(found)


def counts_said(config: Mapping[str, Any]) -> Iterator[dict[str, int]]:
    """The same by key, of it and of each one inside of it that says something; that of the text
    first."""
    said = {
        key: config[key]
        for key in EXPERT_COUNT_KEYS
        if type(config.get(key)) is int and config[key] > 1
    }
    parts = [value for value in config.values() if isinstance(value, Mapping)]
    text = config.get(TEXT_PART)
    if isinstance(text, Mapping):
        yield from counts_said(text)
    if said:
        yield said
    for part in parts:
        if part is not text:
            yield from counts_said(part)


def num_idle(config: Mapping[str, Any]) -> int:
    """Experts that compute nothing and have rows all the same, in some tensors, behind all others
    (LongCat-Flash)."""
    found = config.get("zero_expert_num")
    return found if type(found) is int else 0
