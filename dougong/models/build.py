"""Building a transformers model without its experts: meta first, then dense tensors one by one.

The experts' parameters stay on the meta device for ever: a worker holds only its own experts, as
separate tensors (`parallel/execute/shard.py`), and a forward that touched them behind our back
would fail instead of training wrongly.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from dougong.errors import ModelError
from dougong.models.adapters import fill_adapters, initial_adapter
from dougong.models.by_choice import call_by_choice
from dougong.models.initial import NamedInit
from dougong.models.library.classes import auto_class, model_class
from dougong.models.library.transformers_internals import (
    initialise_module,
    strict_float32_names,
    want_initial_values,
)
from dougong.models.sites import Site, expert_parameters, find_sites, one_expert
from dougong.models.towers import freeze_towers
from dougong.ops.adapter_names import is_adapter


def build_on_meta(config: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The unmodified model with every tensor on the meta device, in training mode. What of it no
    text reaches (`towers.py`) is not trained; blocks that compute all experts for every token call
    the chosen ones (`by_choice.py`)."""
    if model_class(config) is None:
        raise ModelError(
            f"{config.model_type}: transformers has no model of it that learns from texts; give a "
            "mixture-of-experts family (model.family), such as qwen3_moe"
        )
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = auto_class(config).from_config(config, dtype=dtype, trust_remote_code=False)
        except Exception as error:
            raise ModelError(
                f"{config.model_type}: transformers cannot build this model: "
                f"{_unknown_value(config, error) or error}"
            ) from error
    call_by_choice(model)
    _keep_strict_float32(model)
    freeze_towers(model, config)
    trained: nn.Module = model.train()
    return trained


def _unknown_value(config: Any, error: Exception) -> str:
    """Which key's value transformers has looked up in vain; empty where it was something else."""
    if not isinstance(error, KeyError) or not error.args:
        return ""
    value = error.args[0]
    for key, given in config.to_dict().items():
        if isinstance(given, str) and given == value:
            kind = "activation" if "act" in key else "value"
            return f"model.config.{key}: {value!r} is no {kind} that transformers knows"
    return ""


def _keep_strict_float32(model: Any) -> None:
    pattern = strict_float32_names(model)
    if pattern is None:
        return
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and pattern.search(name):
            tensor.data = tensor.data.float()


def materialise(
    model: nn.Module,
    device: torch.device,
    seed: int,
    unfilled: Collection[str] = (),
    absent: Collection[str] = (),
) -> None:
    """Give everything but the experts memory on `device` and the family's own initial values,
    seeded by tensor name. `unfilled`: names of tensors that the caller will overwrite, for which
    no random numbers are drawn; `absent`: of parameters that stay on meta.

    The bits of a tensor depend on `seed` and its name alone: not on the device's vector width, nor
    on what else is built. Experts' parameters stay on meta.
    """
    parameters = dict(model.named_parameters()) if absent else {}
    skip = expert_parameters(find_sites(model)) | {id(parameters[name]) for name in absent}
    for module in model.modules():
        _to_empty(module, device, skip)
    # Memory of its own was given to both names of a tied tensor; this makes them one again.
    model.tie_weights()  # type: ignore[operator]
    named = [*model.named_parameters(), *model.named_buffers()]
    names = {tensor: name for name, tensor in named if not tensor.is_meta}
    made_elsewhere = [tensor for _, tensor in named if tensor.is_meta] if absent else []
    want_initial_values(model)
    with NamedInit(seed, names, unfilled, made_elsewhere):
        model.initialize_weights()  # type: ignore[operator]
    fill_adapters(model, seed, unfilled)


def _to_empty(module: nn.Module, device: torch.device, skip: set[int]) -> None:
    """Replace a module's own meta tensors, but for those in `skip`, by zeros on `device`."""
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.is_meta and id(parameter) not in skip:
            zeros = torch.zeros_like(parameter, device=device)
            module._parameters[name] = nn.Parameter(zeros, requires_grad=parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_meta:
            zeros = torch.zeros_like(buffer, device=device)
            module._buffers[name] = nn.Buffer(zeros) if isinstance(buffer, nn.Buffer) else zeros


def initial_expert(
    model: nn.Module, site: Site, expert: int, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """One expert's initial tensors (float32), by the family's own initialisation on a one-expert
    module.

    Whoever owns the expert gets the same bits, since they depend on the tensors' names alone.
    """
    tensors = {}
    for parameter, _ in site.tensors_of(expert):
        shape = site.shapes[parameter]
        tensors[parameter] = torch.zeros(shape, dtype=torch.float32, device=device)
    names = {tensors[parameter]: name for parameter, name in site.tensors_of(expert)}
    module = one_expert(site, tensors)
    # Rows of experts that compute nothing: this expert has no such tensor.
    for parameter in site.shapes.keys() - tensors.keys():
        empty = torch.empty(0, 1, device=device)
        module._parameters[parameter] = empty  # type: ignore[assignment]
    owner = _initialising_model(model, site.name)
    with torch.no_grad(), NamedInit(seed, names):
        initialise_module(owner, module)
    for parameter, name in site.tensors_of(expert):
        if is_adapter(name):
            tensors[parameter].copy_(initial_adapter(name, site.shapes[parameter], seed))
    return tensors


def _initialising_model(model: nn.Module, name: str) -> nn.Module:
    """The innermost PreTrainedModel around a module: its rules initialise what it holds."""
    from transformers import PreTrainedModel

    owner, node = model, model
    for part in name.split("."):
        node = getattr(node, part)
        if isinstance(node, PreTrainedModel):
            owner = node
    return owner
