"""Every private name of transformers that this package uses, each behind one function.

transformers may rename them in any release. They are gathered here so that such a release breaks
one module, and a test looks each of them up in the installed transformers. The undocumented module
`transformers.core_model_loading` is fenced likewise, by `models.library.conversion`.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from torch import nn

from dougong.models.library.classes import model_class

MODEL_NAMES = {
    "_keys_to_ignore_on_save": "tensors that save_pretrained leaves out; a checkpoint does so too",
    "_keep_in_fp32_modules_strict": "modules that stay float32 in a bfloat16 model",
    "_init_weights": "the family's own initial values for one module",
    "_weight_conversions": "how a model that was read from a folder is written back",
    "_is_hf_initialized": "tells transformers which modules still need initial values",
    "_tied_weights_keys": "which names a family may tie, known before a model is built",
    "_supports_sdpa": "whether a family has torch's fused attention",
    "_supports_flash_attn": "whether it has that of the package flash_attn",
    "_compatible_flash_implementations": "by which kernels a family computes it instead",
    "_supports_flex_attn": "whether it has torch's flexible attention",
    "all_tied_weights_keys": "which names are one tensor; public, but documented nowhere",
}
"""Names of a model (and of its modules), and why each is needed."""

CONFIG_NAMES = {
    "_attn_implementation": "by which form of attention a model computes",
    "_experts_implementation": "a copy with one expert must compute by the family's own loop",
}
"""Names of a configuration, and why each is needed."""


def names_not_saved(model: Any) -> set[str]:
    """Tensors of the state dict that the family does not write to disk."""
    return set(getattr(model, "_keys_to_ignore_on_save", None) or ())


def tied_names(model: Any) -> dict[str, str]:
    """Name to the name of the tensor that stands in its place, for tensors that are one in truth.

    transformers lists what a family may tie; a configuration may leave it untied.
    """
    declared = getattr(model, "all_tied_weights_keys", None) or {}
    find = model.get_parameter_or_buffer
    return {name: source for name, source in declared.items() if find(name) is find(source)}


def declared_ties(config: Any) -> dict[str, str]:
    """What the model of a configuration ties: a name to the name of the tensor that stands in its
    place. No model is built."""
    if not getattr(config, "tie_word_embeddings", False):
        return {}
    kind = model_class(config)  # None is refused with its own words where it is built
    return dict(getattr(kind, "_tied_weights_keys", None) or {})


def strict_float32_names(model: Any) -> re.Pattern[str] | None:
    """What `search` finds in the names of tensors that stay float32; None when there are none."""
    modules = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    if not modules:
        return None
    words = "|".join(re.escape(module) for module in modules)
    return re.compile(rf"(^|\.)({words})($|\.)")


def recorded_conversions(model: Any) -> list[Any] | None:
    """The conversions by which the model's weights were read; None when they were not read."""
    conversions: list[Any] | None = getattr(model, "_weight_conversions", None)
    return conversions


def set_attention(config: Any, name: str) -> None:
    """Models that are built of this configuration compute by the registry's form `name`."""
    config._attn_implementation = name


def chosen_attention(model: Any) -> str:
    """The registry's name of the form by which a model computes."""
    return str(model.config._attn_implementation)


def supported_attention(model: Any) -> set[str]:
    """The registry's names of the forms that a family says it has."""
    flash = getattr(model, "_supports_flash_attn", False) and _has_own_flash(type(model))
    known = {
        "sdpa": getattr(model, "_supports_sdpa", False),
        "flash_attention_2": flash,
        "flex_attention": getattr(model, "_supports_flex_attn", False),
    }
    return {"eager", *(name for name, has in known.items() if has)}


def chosen_forms(config: Any) -> set[str]:
    """The registry's names by which a configuration, or one within it, has attention and experts
    computed; none where transformers chooses."""
    found = {config._attn_implementation, config._experts_implementation}
    for key in getattr(type(config), "sub_configs", None) or {}:
        part = getattr(config, key, None)
        if part is not None:
            found |= chosen_forms(part)
    return {str(name) for name in found if name is not None}


def has_own_flash(config: Any) -> bool:
    """Whether models of this configuration compute flash attention by the package flash_attn; some
    families name a kernel on a hub instead."""
    return _has_own_flash(model_class(config))


def _has_own_flash(kind: type | None) -> bool:
    names = getattr(kind, "_compatible_flash_implementations", None)
    return names is None or "flash_attention_2" in names


def want_initial_values(model: nn.Module) -> None:
    """Let the next `initialize_weights` visit every module, also those visited before."""
    for module in model.modules():
        module._is_hf_initialized = False  # type: ignore[assignment]


def initialise_module(owner: nn.Module, module: nn.Module) -> None:
    """Fill one module's tensors with initial values as `owner` (a PreTrainedModel) does it."""
    owner._init_weights(module)  # type: ignore[operator]


def with_eager_experts(config: Any) -> Any:
    """A copy of a configuration by which experts compute one after the other, by the family's code.

    The other implementations (grouped, batched) sum in an order of their own.
    """
    copied = copy.copy(config)
    copied._experts_implementation = "eager"
    return copied
