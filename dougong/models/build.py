"""Building a transformers model without its experts: meta first, then dense tensors one by one.

The experts' parameters stay on the meta device for ever: a worker holds only its own experts, as
separate tensors (`parallel/execute/shard.py`), and a forward that touched them behind our back
would fail instead of training wrongly.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dougong.errors import ModelError
from dougong.job.families import given_twice
from dougong.job.schema import Model
from dougong.job.settled import SettledModel
from dougong.models.config_reads import read_keys
from dougong.models.configuration import (
    declare_no_extra_layers,
    folder_config,
    refuse_code_keys,
    untied_pair,
)
from dougong.models.initial import NamedInit
from dougong.models.library.attention_forms import refuse_fetched_forms, use_form
from dougong.models.library.transformers_internals import (
    initialise_module,
    strict_float32_names,
    want_initial_values,
)
from dougong.models.settled_config import config_from
from dougong.models.sites import Site, expert_parameters, find_sites, one_expert

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def load_config(model: Model, vocab_size: int | None) -> Any:
    """The family's own configuration. `vocab_size` is the tokenizer's (None: unknown), used where
    the job names none. Of a run that has begun it is the one that the run has stored, and nothing
    else is read.

    Raises `ModelError` for an unknown family, a key that the family does not know, or a folder
    without a configuration.
    """
    from transformers import logging

    logging.set_verbosity_error()
    if isinstance(model, SettledModel):
        config = config_from(model.settled, model.settled_class)
    else:
        config = _read_checked(model, vocab_size)
    use_form(config, model.attention)
    refuse_fetched_forms(config)
    return config


def _read_checked(model: Model, vocab_size: int | None) -> Any:
    config = _read_config(model, vocab_size)
    _refuse_unknown_keys(model, config)
    for first, other in given_twice(model.config, getattr(config, "attribute_map", None) or {}):
        raise ModelError(
            f"model.config: {first} and {other} are one key of {config.model_type} and have "
            "different values; leave one out"
        )
    declare_no_extra_layers(model, config)
    return config


def _read_config(model: Model, vocab_size: int | None) -> Any:
    if model.path is None:
        refuse_code_keys(model.config)
        return _family_config(model.family or "", model.config, vocab_size)
    config = folder_config(model)
    if untied_pair(model, config) is not None:
        config.tie_word_embeddings = False
    return config


def _family_config(family: str, given: Mapping[str, Any], vocab_size: int | None) -> Any:
    from transformers import AutoConfig

    _refuse_unknown_family(family)
    values = dict(given)
    if vocab_size is not None:
        values = {"vocab_size": vocab_size, **values}
    try:
        config = AutoConfig.for_model(family, **values).get_text_config()
        _drop_foreign_tokens(config, given)
    except Exception as error:
        raise ModelError(
            f"model.family: {family}: transformers cannot make this configuration: {error}"
        ) from error
    return config


def _refuse_unknown_family(family: str) -> None:
    from transformers import CONFIG_MAPPING

    if family not in CONFIG_MAPPING:
        hint = _nearest([family], CONFIG_MAPPING.keys(), 3)
        hint = hint or "give a transformers model type, such as qwen3_moe"
        raise ModelError(f"model.family: transformers knows no {family!r}; {hint}")


def _drop_foreign_tokens(config: Any, given: Mapping[str, Any]) -> None:
    """A family's default ids of special tokens may lie outside the job's vocabulary."""
    vocab_size = getattr(config, "vocab_size", None)
    if vocab_size is None:  # no model of a language
        return
    for token in SPECIAL_TOKENS:
        value = getattr(config, token, None)
        if token not in given and isinstance(value, int) and value >= vocab_size:
            setattr(config, token, None)


def _nearest(words: Iterable[str], known: Iterable[str], count: int) -> str:
    """A question that names the known words nearest to `words`; empty where none is near."""
    candidates = list(known)
    near: list[str] = []
    for word in words:
        near += difflib.get_close_matches(word, candidates, count)
    return f"did you mean {', '.join(near)}?" if near else ""


def _refuse_unknown_keys(model: Model, config: Any) -> None:
    """Refuse keys of `model.config` that nothing reads.

    A key must be declared by the configuration class, or read by the sources all the same
    (`head_dim` often is): transformers keeps any other key too, and nothing ever looks at it.
    """
    known = declared_keys(config)
    unknown = sorted(set(model.config) - known)
    if not unknown:
        return
    read = read_keys(config)
    unknown = [key for key in unknown if key not in read]
    if unknown:
        hint = _nearest(unknown, known, 1) or f"its keys are those of {type(config).__name__}"
        raise ModelError(
            f"model.config: {config.model_type} does not know {', '.join(unknown)}; {hint}"
        )


def declared_keys(config: Any) -> set[str]:
    """The keys that a configuration's class declares, also by other names."""
    kind = type(config)
    return {*kind().to_dict(), *getattr(kind, "attribute_map", {}), *SPECIAL_TOKENS}


def build_on_meta(config: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The unmodified causal language model with every tensor on the meta device, in training
    mode."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        except Exception as error:
            raise ModelError(
                f"{config.model_type}: transformers cannot build this model: "
                f"{_unknown_value(config, error) or error}"
            ) from error
    _keep_strict_float32(model)
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
