"""A configuration that has parts: which one speaks of the language model, and what builds it.

A family that sees or hears has a configuration of a text part (`text_config`) beside those of its
towers. Sizes are the text part's; of all other families it is the configuration itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dougong.errors import ModelError
from dougong.job.rule import TEXT_PART
from dougong.models.library.classes import causal_class

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def text_config(config: Any) -> Any:
    """The part that has the language model's sizes."""
    return config.get_text_config()


def is_composite(config: Any) -> bool:
    """Whether a model of this configuration is more than a language model."""
    return text_config(config) is not config


def to_build(config: Any) -> Any:
    """What a new model is built of: the text part alone where transformers has a causal language
    model of it, else all parts."""
    text = text_config(config)
    return config if causal_class(text) is None else text


def by_part(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """A job's keys as a configuration of this class takes them: those of the text part may be
    written flat, as those of any other family are.

    Raises `ModelError` where a key is given both ways with two values.
    """
    default = _default(kind)
    if default is None or not is_composite(default):
        return dict(given)
    outer, text = declared_keys(default), declared_keys(text_config(default))
    values = {key: value for key, value in given.items() if key in outer}
    inner = dict(values.get(TEXT_PART) or {})
    for key, value in given.items():
        if key in outer and key not in text:
            continue
        if inner.setdefault(key, value) != value:
            raise ModelError(
                f"model.config: {key} is given as {value!r}, and as {inner[key]!r} in "
                f"{TEXT_PART}; leave one out"
            )
    return {**values, TEXT_PART: inner}


def declared_keys(config: Any) -> set[str]:
    """The keys that a configuration's class declares, also by other names."""
    kind = type(config)
    return {*kind().to_dict(), *getattr(kind, "attribute_map", {}), *SPECIAL_TOKENS}


def parts_of(config: Any) -> Iterator[tuple[str, Any]]:
    """(key, part) of a configuration's parts."""
    for key in getattr(type(config), "sub_configs", {}):
        part = getattr(config, key, None)
        if hasattr(part, "model_type"):
            yield key, part


def keys_of_other_parts(config: Any) -> dict[str, str]:
    """Keys that a part beside the language model declares, and neither that nor the whole does:
    each with the name of the part that it belongs in."""
    own = declared_keys(text_config(config)) | declared_keys(config)
    found: dict[str, str] = {}
    for name, part in parts_of(config):
        if part is not text_config(config):
            found |= dict.fromkeys(declared_keys(part) - own, name)
    return found


def _default(kind: type) -> Any | None:
    """A configuration of all defaults; None of a class that cannot be made so."""
    try:
        return kind()
    except Exception:
        return None
