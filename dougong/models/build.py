"""Building a transformers model without its experts: meta first, then dense tensors one by one.

The experts' parameters stay on the meta device for ever: a worker holds only its own experts, as
separate tensors (`parallel/experts.py`), and a forward that touched them behind our back would fail
instead of training wrongly.
"""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dougong.errors import ModelError
from dougong.job.schema import Model
from dougong.models.initial import NamedInit
from dougong.models.sites import Site, find_sites, one_expert

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def load_config(model: Model, vocab_size: int | None) -> Any:
    """The family's own configuration. `vocab_size` is the tokenizer's (None: unknown), used where
    the job names none.

    Raises `ModelError` for an unknown family, a key that the family does not know, or a folder
    without a configuration.
    """
    from transformers import logging

    logging.set_verbosity_error()
    config = (
        _family_config(model, vocab_size)
        if model.path is None
        else _folder_config(model.path, model.config)
    )
    _refuse_unknown_keys(model, config)
    return config


def _folder_config(path: str, changes: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    if not (Path(path) / "config.json").is_file():
        raise ModelError(f"model.path: {path} has no config.json; give a Hugging Face folder")
    try:
        config = AutoConfig.from_pretrained(path, **changes)
    except Exception as error:
        raise ModelError(
            f"model.path: {path}: transformers cannot read this configuration: {error}"
        ) from error
    if getattr(config, "quantization_config", None):
        raise ModelError(
            f"model.path: {path} holds quantised weights (quantization_config in its config.json), which cannot be "
            "trained; give a folder in bfloat16 or float32"
        )
    return config


def _family_config(model: Model, vocab_size: int | None) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    family = model.family or ""
    if family not in CONFIG_MAPPING:
        near = difflib.get_close_matches(family, CONFIG_MAPPING.keys(), 3)
        hint = (
            f"did you mean {', '.join(near)}?"
            if near
            else "give a transformers model type, such as qwen3_moe"
        )
        raise ModelError(f"model.family: transformers knows no {family!r}; {hint}")
    values = ({} if vocab_size is None else {"vocab_size": vocab_size}) | model.config
    try:
        config = AutoConfig.for_model(family, **values).get_text_config()
    except Exception as error:
        raise ModelError(
            f"model.family: {family}: transformers cannot make this configuration: {error}"
        ) from error
    for token in SPECIAL_TOKENS:  # a family's default ids may lie outside the job's vocabulary
        value = getattr(config, token, None)
        if token not in model.config and isinstance(value, int) and value >= config.vocab_size:
            setattr(config, token, None)
    return config


def _refuse_unknown_keys(model: Model, config: Any) -> None:
    """A key must be declared by the configuration class, or read by the sources all the same
    (`head_dim` often is): transformers keeps any other key too, and nothing ever looks at it."""
    known = (
        set(type(config)().to_dict())
        | set(getattr(type(config), "attribute_map", {}))
        | set(SPECIAL_TOKENS)
    )
    unknown = sorted(set(model.config) - known)
    unknown = [key for key in unknown if key not in _read_keys(config)] if unknown else []
    if unknown:
        near = [n for key in unknown for n in difflib.get_close_matches(key, known, 1)]
        hint = (
            f"did you mean {', '.join(near)}?"
            if near
            else f"its keys are those of {type(config).__name__}"
        )
        raise ModelError(
            f"model.config: {config.model_type} does not know {', '.join(unknown)}; {hint}"
        )


def _read_keys(config: Any) -> set[str]:
    """Words that the family's own sources read from a configuration (as an attribute, or in quotes:
    `getattr`), and those that transformers' code for all families does."""
    folder = Path(inspect.getfile(type(config))).parent
    shared = [
        folder.parent.parent / f"{name}.py"
        for name in ("cache_utils", "masking_utils", "modeling_rope_utils")
    ]
    own = [p.read_text(encoding="utf-8") for p in folder.glob("*.py")]
    read = {
        w
        for text in own
        for pair in re.findall(r"""config\.(\w+)|["'](\w+)["']""", text)
        for w in pair
    }
    return read | {
        w for p in shared for w in re.findall(r"config\.(\w+)", p.read_text(encoding="utf-8"))
    }


def build_on_meta(config: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The unmodified causal language model with every tensor on the meta device, in training
    mode."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        except Exception as error:
            raise ModelError(
                f"{config.model_type}: transformers cannot build this model: {error}"
            ) from error
    _keep_strict_float32(model)
    trained: nn.Module = model.train()
    return trained


def _keep_strict_float32(model: Any) -> None:
    patterns = [re.escape(m) for m in getattr(model, "_keep_in_fp32_modules_strict", None) or ()]
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and any(
            re.search(rf"(^|\.){p}($|\.)", name) for p in patterns
        ):
            tensor.data = tensor.data.float()


def materialise(model: nn.Module, device: torch.device, seed: int) -> None:
    """Give everything but the experts memory on `device` and the family's own initial values,
    seeded by tensor name.

    The bits of a tensor depend on `seed` and its name alone: not on the device's vector width, nor
    on what else is built. Experts' parameters stay on meta.
    """
    sites = find_sites(model)
    ours = {id(p) for s in sites for p in s.module.parameters(recurse=False)}
    for module in model.modules():
        _to_empty(module, device, ours)
    model.tie_weights()  # type: ignore[operator]
    names = {t: n for n, t in [*model.named_parameters(), *model.named_buffers()] if not t.is_meta}
    for module in model.modules():
        module._is_hf_initialized = False  # type: ignore[assignment]
    with NamedInit(seed, names):
        model.initialize_weights()  # type: ignore[operator]


def _to_empty(module: nn.Module, device: torch.device, skip: set[int]) -> None:
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.is_meta and id(parameter) not in skip:
            empty = torch.zeros_like(parameter, device=device)
            module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_meta:
            replaced = torch.zeros_like(buffer, device=device)
            module._buffers[name] = (
                nn.Buffer(replaced) if isinstance(buffer, nn.Buffer) else replaced
            )


def initial_expert(
    model: nn.Module, site: Site, expert: int, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """One expert's initial tensors (float32), by the family's own initialisation on a one-expert
    module."""
    tensors = {
        p: torch.zeros(site.shapes[p], dtype=torch.float32, device=device)
        for p, _ in site.tensors_of(expert)
    }
    module = one_expert(site, tensors)
    names = {module._parameters[p]: site.tensor_name(p, expert) for p in tensors}
    rest = [p for p in site.shapes if p not in tensors]
    for parameter in rest:  # rows of experts that compute nothing: this expert has no such tensor
        module._parameters[parameter] = torch.empty(0, 1, device=device)  # type: ignore[assignment]
    owner = _initialising_model(model, site.name)
    with torch.no_grad(), NamedInit(seed, {t: n for t, n in names.items() if t is not None}):
        owner._init_weights(module)  # type: ignore[operator]
    return tensors


def _initialising_model(model: nn.Module, name: str) -> nn.Module:
    from transformers import PreTrainedModel

    owner, node = model, model
    for part in name.split("."):
        node = getattr(node, part)
        if isinstance(node, PreTrainedModel):
            owner = node
    return owner
