"""What the tensors of low-rank adapters are called: `q_proj.lora_A` beside a linear layer's weight,
`gate_up_proj_lora_A`, of which each expert has its own, beside experts' matrices. Imports
no torch."""

from __future__ import annotations

import re
from typing import Literal

Half = Literal["A", "B"]

_NAME = re.compile(r"(.+)([._])lora_([AB])(\[\d+\])?", re.ASCII)


def is_adapter(tensor: str) -> bool:
    """Of a name of a tensor, or of one expert's."""
    return _NAME.fullmatch(tensor) is not None


def is_of_experts(adapter: str) -> bool:
    """Whether each expert has its own."""
    match = _NAME.fullmatch(adapter)
    return match is not None and match.group(2) == "_"


def adapted_tensor(adapter: str) -> tuple[str, Half]:
    """Which tensor an adapter's belongs to, and which half of the adapter it is."""
    match = _NAME.fullmatch(adapter)
    assert match is not None, f"{adapter} is no adapter's tensor"
    around, joint, half, expert = match.groups()
    name = f"{around}.weight" if joint == "." else f"{around}{expert or ''}"
    return name, "A" if half == "A" else "B"


def adapter_of(tensor: str, half: Half) -> str:
    """The name of the adapter's half that belongs to a tensor (of one expert: with its number)."""
    around, is_linear = tensor.removesuffix(".weight"), tensor.endswith(".weight")
    if is_linear:
        return f"{around}.lora_{half}"
    name, bracket, expert = tensor.partition("[")
    return f"{name}_lora_{half}{bracket}{expert}"
