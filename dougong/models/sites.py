"""Where a transformers model is cut: its modules called as `experts(hidden, top_k_index,
top_k_weights)`.

Nothing here knows a family by name. A module is a site when it is called `experts`, takes those
three arguments and holds only expert-major parameters `[E, ...]`; everything else about it is the
family's own code.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dougong.errors import ModelError
from dougong.ops.experts.base import ExpertOp, Rows
from dougong.ops.experts.choose import choose_expert_op
from dougong.ops.experts.reference import FamilyExpert


@dataclass(frozen=True)
class Site:
    """One `experts` module of a model.

    `shapes` maps each parameter to the shape of one expert's slice. `num_rows` maps it to its
    number of rows, which exceeds `num_experts` where a family stores rows for experts that compute
    nothing (longcat_flash).
    """

    name: str
    module: nn.Module
    num_experts: int
    shapes: Mapping[str, tuple[int, ...]]
    num_rows: Mapping[str, int]

    @property
    def has_identity_experts(self) -> bool:
        """Whether indices from `num_experts` upwards mean "return the token as it is"."""
        return isinstance(getattr(self.module, "identity_expert", None), nn.Identity)

    def tensor_name(self, parameter: str, expert: int) -> str:
        """The name of one expert's own tensor."""
        return f"{self.name}.{parameter}[{expert}]"

    def tensors_of(self, expert: int) -> list[tuple[str, str]]:
        """(parameter, tensor name) of everything that this expert owns."""
        return [(p, self.tensor_name(p, expert)) for p in self.shapes if expert < self.num_rows[p]]


def find_sites(model: nn.Module) -> list[Site]:
    """All sites in module order. Raises `ModelError` for a model that cannot be cut, with the
    reason."""
    modules = [(name, m) for name, m in model.named_modules() if name.split(".")[-1] == "experts"]
    if not modules:
        raise ModelError(
            f"{_family(model)}: has no module named `experts`, so there is nothing to distribute; "
            "give a mixture-of-experts family (model.family), such as qwen3_moe"
        )
    sites = [_site(model, name, module) for name, module in modules]
    counts = {s.num_experts for s in sites}
    if len(counts) > 1:
        raise ModelError(
            f"{_family(model)}: layers have different numbers of experts {sorted(counts)}; not supported"
        )
    return sites


def _site(model: nn.Module, name: str, module: nn.Module) -> Site:
    where = f"{_family(model)}: {name} ({type(module).__name__})"
    if any(True for child in module.children() for _ in child.parameters()):
        raise ModelError(
            f"{where} keeps its experts as separate modules; only fused [E, ...] parameters can be cut"
        )
    parameters = dict(module.named_parameters(recurse=False))
    if not parameters or any(p.dim() < 2 for p in parameters.values()):
        shapes = {n: tuple(p.shape) for n, p in parameters.items()}
        raise ModelError(f"{where} has parameters that are not expert-major [E, ...]: {shapes}")
    arguments = list(inspect.signature(module.forward).parameters.values())
    positional = [
        a.name for a in arguments if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)
    ]
    if len(positional) < 3:
        raise ModelError(
            f"{where} is called with {positional}; the cut needs (hidden, top_k_index, top_k_weights)"
        )
    rows = {n: p.shape[0] for n, p in parameters.items()}
    shapes = {n: tuple(p.shape[1:]) for n, p in parameters.items()}
    site = Site(name, module, min(rows.values()), shapes, rows)
    if max(rows.values()) > site.num_experts and not site.has_identity_experts:
        raise ModelError(f"{where}: parameters disagree on the number of experts: {rows}")
    return site


def one_expert(site: Site, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The site's own module, holding one expert: a shallow copy whose parameters are `[1, ...]`
    views of `tensors`.

    Called with index 0 and weight 1 it computes that expert by the family's own code.
    """
    module = copy.copy(site.module)
    module.__dict__ = dict(site.module.__dict__)
    module._parameters = dict(site.module._parameters)
    for name, tensor in tensors.items():
        module._parameters[name] = tensor.unsqueeze(0)  # type: ignore[assignment]
    for name, value in site.module.__dict__.items():
        if name.startswith("num_") and value == site.num_experts:
            setattr(module, name, 1)
    config: Any = getattr(module, "config", None)
    if config is not None:
        config = copy.copy(config)
        config._experts_implementation = "eager"
        module.__dict__["config"] = config
    module.__dict__.pop("forward", None)
    return module


def expert_op(site: Site, device: torch.device, rows: Rows = "block") -> ExpertOp:
    """How this site's experts compute: the fast form where it agrees with the family's own code,
    else that."""
    family = FamilyExpert(lambda tensors: one_expert(site, tensors), site.has_identity_experts)
    return choose_expert_op(family, site.shapes, device, rows)


def _family(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
