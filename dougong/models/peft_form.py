"""Adapters in the form of peft: its names and shapes, and its `adapter_config.json`.

peft keeps the halves of a linear layer as `base_model.model.MODULE.lora_A.weight`. Of an experts'
matrix (`target_parameters`) it keeps A of all experts as [E r, in], and B as [out, r E], the
columns of one expert E apart; several of one module are wrapped one by the other in the module's
own order, the first one innermost, as `base_layer`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from dougong.job.parts.lora import Lora
from dougong.job.schema import Model
from dougong.models.adapters import AdaptedLinear
from dougong.models.sites import Site
from dougong.ops.adapter_names import Half, adapter_of, is_adapter, is_of_experts

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_HALVES: tuple[Half, Half] = ("A", "B")


@dataclass(frozen=True)
class PeftTensor:
    """One tensor of peft's file. `adapter`: the live tensor that it holds; `rows`: of how many
    experts, None for that of a linear layer."""

    key: str
    adapter: str
    half: Half
    rows: int | None

    @property
    def live_names(self) -> list[str]:
        """What it is joined of, in order."""
        if self.rows is None:
            return [self.adapter]
        return [f"{self.adapter}[{expert}]" for expert in range(self.rows)]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Of the live tensors, each A [r, in] or B [out, r]."""
        if self.rows is None:
            return parts[0]
        if self.half == "A":
            return torch.cat(tuple(parts))
        return torch.stack(tuple(parts), -1).flatten(1)

    def parts(self, whole: Tensor) -> list[Tensor]:
        """The live tensors."""
        if self.rows is None:
            return [whole]
        if self.half == "A":
            return list(whole.unflatten(0, (self.rows, -1)))
        return list(whole.unflatten(1, (-1, self.rows)).unbind(-1))

    def shape(self, one: tuple[int, ...]) -> tuple[int, ...]:
        """Of it, where a live tensor has the shape `one`."""
        rows = self.rows or 1
        return (rows * one[0], one[1]) if self.half == "A" else (one[0], rows * one[1])


def peft_tensors(adapters: Collection[str], sites: Iterable[Site]) -> list[PeftTensor]:
    """Of a model's adapters (live names, those of experts without their numbers)."""
    found = [_of_linear(name) for name in sorted(adapters) if not is_of_experts(name)]
    for site in sites:
        adapted = [p for p in site.shapes if f"{site.name}.{adapter_of(p, 'A')}" in adapters]
        for place, parameter in enumerate(adapted):
            around = ".base_layer" * (len(adapted) - 1 - place)
            for half in _HALVES:
                key = f"base_model.model.{site.name}{around}.lora_{half}.weight"
                name = f"{site.name}.{adapter_of(parameter, half)}"
                found.append(PeftTensor(key, name, half, site.num_rows[parameter]))
    return found


def _of_linear(name: str) -> PeftTensor:
    return PeftTensor(
        f"base_model.model.{name}.weight", name, "A" if name[-1] == "A" else "B", None
    )


@dataclass(frozen=True)
class Adapters:
    """What files say of a model's adapters. `files`: small ones beside the weights, by name and
    text; `tensors`: in peft's form."""

    files: Mapping[str, str]
    tensors: tuple[PeftTensor, ...]


NO_ADAPTERS = Adapters(MappingProxyType({}), ())


def adapters_of(network: nn.Module, sites: Sequence[Site], model: Model) -> Adapters:
    """Of a job's model, which has its adapters."""
    if model.lora is None:
        return NO_ADAPTERS
    names = set(filter(is_adapter, network.state_dict()))
    files = {CONFIG_FILE: _config(network, sites, model.lora, model.path)}
    return Adapters(files, tuple(peft_tensors(names, sites)))


def _config(model: nn.Module, sites: Sequence[Site], lora: Lora, base: str | None) -> str:
    """peft's configuration. `base`: where the model without adapters lies."""
    values: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": _target_modules(model),
        "target_parameters": list(_target_parameters(sites)),
    }
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def scaling_in(values: Mapping[str, Any]) -> float:
    """What a configuration says that B A is multiplied by."""
    return float(values["lora_alpha"]) / int(values["r"])


def _target_modules(model: nn.Module) -> list[str]:
    """Adapted layers; by the last part of their names where all that are called so are adapted."""
    adapted = [name for name, module in model.named_modules() if isinstance(module, AdaptedLinear)]
    others = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if not isinstance(module, AdaptedLinear)
    }
    words = [name.rpartition(".")[2] for name in adapted]
    pairs = zip(adapted, words, strict=True)
    return sorted({name if word in others else word for name, word in pairs})


def _target_parameters(sites: Sequence[Site]) -> Iterator[str]:
    site = sites[0]
    for parameter in site.shapes:
        if not is_adapter(parameter) and adapter_of(parameter, "A") in site.shapes:
            yield f"{site.name.rpartition('.')[2]}.{parameter}"
