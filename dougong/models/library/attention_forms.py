"""Forms of attention: what a job file calls them, and what transformers does. Imports no torch."""

from __future__ import annotations

import importlib.util
from typing import Any

from dougong.errors import ModelError
from dougong.models.library.transformers_internals import (
    chosen_attention,
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
