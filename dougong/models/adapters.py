"""Low-rank adapters in a transformers model: beside linear layers, and beside experts' matrices.

Hu et al. 2021, arXiv 2106.09685. Their tensors are parameters of the model like any other: they are
owned, summed, updated, saved and moved as those are. They are float32 in every job.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.errors import ModelError
from dougong.job.parts.lora import ATTENTION_AND_EXPERTS, Lora
from dougong.job.parts.patterns import is_among, without_match
from dougong.models.sites import Site, find_sites
from dougong.ops import counter_rng
from dougong.ops.adapter_names import adapted_tensor, adapter_of, is_adapter

_WHAT_IS_ADAPTED = (
    "adapters are for weights of linear layers (torch.nn.Linear; routers are none, as a rule) and "
    "experts' matrices, outside of towers that no text reaches"
)
Sizes = tuple[int, int]
"""in, out."""


class AdaptedLinear(nn.Linear):
    """x W' + alpha / rank x A' B', the second product in float32, as peft has it. Made of
    a linear layer."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    scaling: float

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        plain = super().forward(input)
        added = F.linear(F.linear(input.to(self.lora_A.dtype), self.lora_A), self.lora_B)
        return (plain + added * self.scaling).to(plain.dtype)


def add_adapters(model: nn.Module, lora: Lora) -> None:
    """Give all that the targets name its adapter, on meta. Raises ModelError for a pattern that
    names nothing that can be adapted."""
    sites = find_sites(model)
    matrices = _experts_matrices(sites)
    linear = _linear_layers(model, sites)
    names = [f"{name}.weight" for name in linear]
    for site in sites:
        names += [f"{site.name}.{parameter}" for parameter in matrices]
    _check_targets(model, lora, names)
    for name, layer in linear.items():
        if is_among(lora.targets, f"{name}.weight"):
            _adapt_linear(layer, lora)
    for parameter, sizes in matrices.items():
        _adapt_experts(sites, parameter, sizes, lora)


def scaling_of(lora: Lora) -> float:
    """By what B A is multiplied."""
    return lora.alpha / lora.rank


def initial_adapter(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """Float32: A uniform within 1 / sqrt(in), as torch's own linear layers and peft's A; B zero."""
    if adapted_tensor(name)[1] == "B":
        return torch.zeros(tuple(shape))
    bound = 1 / math.sqrt(shape[-1])
    values = torch.from_numpy(counter_rng.uniform(tuple(shape), seed, name))
    return values.mul_(2 * bound).sub_(bound)


def is_transposed(site: Site) -> bool:
    """Whether a site's matrices lie [E, in, out], as transformers itself says it."""
    return bool(getattr(site.module, "is_transposed", False))


def _check_targets(model: nn.Module, lora: Lora, names: Sequence[str]) -> None:
    """Each pattern that a user gave names something; of the default's one is enough."""
    is_default = lora.targets == ATTENTION_AND_EXPERTS
    for pattern in () if is_default else lora.targets:
        wrong = without_match([pattern], names)
        if wrong is not None:
            every = [name for name, _ in model.named_parameters(remove_duplicate=False)]
            is_known = without_match([pattern], every) is None
            reason = f"{pattern!r} names tensors that can have no adapter" if is_known else wrong
            raise ModelError(f"model.lora.targets: {reason}; {_WHAT_IS_ADAPTED}")
    if not any(is_among(lora.targets, name) for name in names):
        given = ", ".join(lora.targets) or "the list is empty"
        raise ModelError(f"model.lora.targets: {given}: nothing is adapted; {_WHAT_IS_ADAPTED}")


def _linear_layers(model: nn.Module, sites: Sequence[Site]) -> dict[str, nn.Module]:
    """Those whose product is torch's own, and that are no other tensor's second name. None of a
    tower."""
    counts: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    inside = tuple(f"{site.name}." for site in sites)
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        # What no text reaches (`towers.py`) is frozen by now.
        is_own = type(module) is nn.Linear and counts[id(module.weight)] == 1
        is_own = is_own and module.weight.requires_grad
        if is_own and not name.startswith(inside):
            found[name] = module
    return found


def _experts_matrices(sites: Sequence[Site]) -> dict[str, Sizes]:
    """By parameter, where all sites have it alike."""
    first, found = sites[0], dict[str, Sizes]()
    for parameter, shape in first.shapes.items():
        if len(shape) == 2 and all(site.shapes.get(parameter) == shape for site in sites):
            found[parameter] = (
                (shape[0], shape[1]) if is_transposed(first) else (shape[1], shape[0])
            )
    return found


def _adapt_linear(layer: nn.Module, lora: Lora) -> None:
    layer.__class__ = AdaptedLinear
    layer.scaling = scaling_of(lora)  # type: ignore[assignment]
    size_in, size_out = int(layer.in_features), int(layer.out_features)  # type: ignore[arg-type]
    layer.lora_A = _parameter(lora.rank, size_in)
    layer.lora_B = _parameter(size_out, lora.rank)


def _adapt_experts(sites: Sequence[Site], parameter: str, sizes: Sizes, lora: Lora) -> None:
    """At all sites, or at none: a worker holds the same tensors of every expert."""
    chosen = [is_among(lora.targets, f"{site.name}.{parameter}") for site in sites]
    if not any(chosen):
        return
    if not all(chosen):
        left_out = next(s.name for s, is_one in zip(sites, chosen, strict=True) if not is_one)
        raise ModelError(
            f"model.lora.targets: {', '.join(lora.targets)}: {parameter} of some layers' experts "
            f"and not of {left_out}'s; experts are adapted in all layers or in none"
        )
    size_in, size_out = sizes
    for site in sites:
        rows = site.num_rows[parameter]
        for half, shape in (("A", (lora.rank, size_in)), ("B", (size_out, lora.rank))):
            name = adapter_of(parameter, "A" if half == "A" else "B")
            site.module.register_parameter(name, _parameter(rows, *shape))


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=torch.float32, device="meta"))


def fill_adapters(model: nn.Module, seed: int, unfilled: Iterable[str] = ()) -> None:
    """Give the adapters of linear layers that have memory their first values."""
    left = frozenset(unfilled)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name) and not parameter.is_meta and name not in left:
                parameter.copy_(initial_adapter(name, parameter.shape, seed))
