"""Where a transformers model is cut: its modules called as `experts(hidden, top_k_index,
top_k_weights)`.

Nothing here knows a family by name. A module is a site when it is called `experts`, takes those
three arguments and holds only expert-major parameters `[E, ...]`; everything else about it is the
family's own code.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dougong.errors import ModelError
from dougong.models.library.transformers_internals import with_eager_experts
from dougong.ops.adapter_names import is_adapter
from dougong.ops.experts.base import ExpertOp, Rows
from dougong.ops.experts.choose import NO_FUSED, FusedForms, choose_expert_op
from dougong.ops.experts.reference import FamilyExpert

_OTHER_SENSES = ("vision", "visual", "image", "audio", "speech")
"""How parts of a model are called that are not for texts."""


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

    @property
    def trained(self) -> frozenset[str]:
        """Parameters that training changes."""
        parameters = self.module._parameters
        return frozenset(p for p in self.shapes if _is_trained(parameters[p]))

    def tensor_name(self, parameter: str, expert: int) -> str:
        """The name of one expert's own tensor."""
        return f"{self.name}.{parameter}[{expert}]"

    def tensors_of(self, expert: int) -> list[tuple[str, str]]:
        """(parameter, tensor name) of everything that this expert owns."""
        return [(p, self.tensor_name(p, expert)) for p in self.shapes if expert < self.num_rows[p]]

    def with_idle_rows(self, owned: tuple[int, ...]) -> list[int]:
        """Owned experts; the last expert's owner also keeps the rows of experts that compute
        nothing."""
        if not owned or owned[-1] != self.num_experts - 1:
            return list(owned)
        return [*owned, *range(self.num_experts, max(self.num_rows.values()))]

    def trained_of(self, expert: int) -> list[str]:
        """The names of those of them that training changes."""
        trained = self.trained
        return [name for p, name in self.tensors_of(expert) if p in trained]


def _is_trained(parameter: nn.Parameter | None) -> bool:
    return parameter is not None and parameter.requires_grad


def find_sites(model: nn.Module) -> list[Site]:
    """All sites in module order. Raises `ModelError`, with the reason, for a model that cannot be
    cut."""
    family = _family(model)
    sites = []
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "experts":
            _refuse_other_senses(family, name)
            sites.append(_site(family, name, module))
    if not sites:
        raise ModelError(
            f"{family}: has no module named `experts`, so there is nothing to distribute; "
            "give a mixture-of-experts family (model.family), such as qwen3_moe"
        )
    counts = sorted({site.num_experts for site in sites})
    if len(counts) > 1:
        raise ModelError(
            f"{family}: layers have different numbers of experts {counts}; not supported"
        )
    return sites


def _refuse_other_senses(family: str, name: str) -> None:
    """ModelError for experts that a batch of texts does not call: each site is waited for."""
    for part in name.split("."):
        sense = next((sense for sense in _OTHER_SENSES if part.startswith(sense)), None)
        if sense is not None:
            raise ModelError(
                f"{family}: {name} are experts of {part}, which texts do not call; only families "
                "whose experts are all called by every token can be trained"
            )


def expert_parameters(sites: Iterable[Site]) -> set[int]:
    """The `id` of every parameter that is an experts module's own; all others are dense."""
    found: set[int] = set()
    for site in sites:
        found.update(id(parameter) for parameter in site.module.parameters(recurse=False))
    return found


def _site(family: str, name: str, module: nn.Module) -> Site:
    where = f"{family}: {name} ({type(module).__name__})"
    parameters = _expert_major_parameters(where, module)
    _check_arguments(where, module)
    rows = {name: parameter.shape[0] for name, parameter in parameters.items()}
    shapes = {name: tuple(parameter.shape[1:]) for name, parameter in parameters.items()}
    site = Site(name, module, min(rows.values()), shapes, rows)
    # More rows than experts are legitimate only where the family has experts that return the token
    # as it is: these have a row in what is indexed by expert, and none in what they do not use.
    if max(rows.values()) > site.num_experts and not site.has_identity_experts:
        raise ModelError(f"{where}: parameters disagree on the number of experts: {rows}")
    return site


def _expert_major_parameters(where: str, module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that the module itself holds, all `[E, ...]`; refuses any other."""
    for child in module.children():
        if any(True for _ in child.parameters()):
            raise ModelError(
                f"{where} keeps its experts as separate modules; "
                "only fused [E, ...] parameters can be cut"
            )
    parameters = dict(module.named_parameters(recurse=False))
    if not parameters or any(parameter.dim() < 2 for parameter in parameters.values()):
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        raise ModelError(f"{where} has parameters that are not expert-major [E, ...]: {shapes}")
    return parameters


def _check_arguments(where: str, module: nn.Module) -> None:
    arguments = inspect.signature(module.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [argument.name for argument in arguments if argument.kind in kinds]
    if len(positional) < 3:
        raise ModelError(
            f"{where} is called with {positional}; "
            "the cut needs (hidden, top_k_index, top_k_weights)"
        )


def one_expert(site: Site, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The site's own module, holding one expert: a shallow copy whose parameters are `[1, ...]`
    views of `tensors`.

    Called with index 0 and weight 1 it computes that expert by the family's own code. Why a copy
    and no module of our own: what an expert computes between its matrices (activation, clamping,
    biases) is then never written down a second time. The site's module itself is not changed.
    """
    module = copy.copy(site.module)
    module.__dict__ = dict(site.module.__dict__)
    module._parameters = dict(site.module._parameters)
    for name, tensor in tensors.items():
        module._parameters[name] = tensor.unsqueeze(0)  # type: ignore[assignment]
    for name, value in site.module.__dict__.items():
        if name.startswith("num_") and value == site.num_experts:
            setattr(module, name, 1)
    if getattr(module, "config", None) is not None:
        module.__dict__["config"] = with_eager_experts(module.config)
    # A cut site's forward is a pause, kept in the instance; without it the class's own is called.
    module.__dict__.pop("forward", None)
    return module


def expert_op(
    site: Site,
    device: torch.device,
    rows: Rows = "block",
    fused: FusedForms = NO_FUSED,
) -> ExpertOp:
    """How this site's experts compute: a fast form where it agrees with the family's own code, else
    that code."""
    return choose_expert_op(family_expert(site), family_shapes(site), device, rows, fused)


def family_shapes(site: Site) -> dict[str, tuple[int, ...]]:
    """Of one expert's tensors that are the family's own."""
    return {name: shape for name, shape in site.shapes.items() if not is_adapter(name)}


def family_expert(site: Site) -> FamilyExpert:
    """One of the site's experts by the family's own code."""
    return FamilyExpert(lambda tensors: one_expert(site, tensors), site.has_identity_experts)


def _family(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
