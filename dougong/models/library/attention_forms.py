"""Forms of attention: what a job file calls them, and what transformers does. Imports no torch."""

from __future__ import annotations

import importlib.util
from typing import Any

from dougong.errors import ModelError
from dougong.models.library.transformers_internals import (
    chosen_attention,
    chosen_forms,
    has_own_flash,
    set_attention,
    supported_attention,
)

FORMS = {
    "flash": "flash_attention_2",
    "sdpa": "sdpa",
    "flex": "flex_attention",
    "eager": "eager",
}
"""A job file's name -> that in transformers' registry; the fastest first, as a rule."""
AUTO = "auto"
_BUILT_IN = (*FORMS.values(), "batched_mm", "grouped_mm")
"""Forms of attention and of experts that are transformers' and torch's own."""


def use_form(config: Any, form: str | None) -> None:
    """Have models of this configuration compute by a form; None or `auto`: as transformers chooses
    for the family. Raises ModelError where a package is missing."""
    if form is None or form == AUTO:
        return
    if form == "flash" and not has_flash():
        raise ModelError(
            "model.attention: flash: the package flash_attn is not installed on this machine: pip "
            "install flash-attn, or take sdpa or auto"
        )
    set_attention(config, FORMS[form])


def refuse_fetched_forms(config: Any) -> None:
    """ModelError where a model of this configuration, or a part of it, would compute attention or
    experts by code that transformers fetches from a hub: whatever is none of its own forms, and
    flash attention where the package is not installed or the family has another one's."""
    for name in sorted(chosen_forms(config)):
        is_flash = name == FORMS["flash"]
        if is_flash and not has_flash():
            reason = "the package flash_attn is not installed here, and transformers would fetch it"
        elif is_flash and not has_own_flash(config):
            reason = "this family's comes from a hub, and transformers would fetch it"
        elif not is_flash and name not in _BUILT_IN:
            reason = "it is none of transformers' own forms, and would be fetched from a hub"
        else:
            continue
        raise ModelError(
            f"model: the configuration asks for {name!r}: {reason}; dougong runs no code from "
            "elsewhere: take that line out, or set model.attention: eager"
        )


def has_flash() -> bool:
    """Whether the package flash_attn is there; transformers would else fetch kernels from a hub."""
    return importlib.util.find_spec("flash_attn") is not None


def forms_to_try(model: Any, form: str | None) -> tuple[str, ...]:
    """By which forms a model that was built may compute: the one that the job says, or that
    transformers has chosen; of `auto` all that the family has, the fastest first."""
    if form == AUTO:
        supported = supported_attention(model)
        return tuple(name for name, theirs in FORMS.items() if theirs in supported)
    chosen = chosen_attention(model)
    return tuple(name for name, theirs in FORMS.items() if theirs == chosen) or (chosen,)
