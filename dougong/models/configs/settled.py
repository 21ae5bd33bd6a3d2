"""A model's configuration between two generations of a run: all of its values, and back."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

from dougong.errors import ModelError

_NOT_THE_MODEL = ("transformers_version", "_name_or_path")
"""Who wrote a configuration, and where it lay."""


def config_values(config: Any) -> dict[str, Any]:
    """Every key of a transformers configuration, defaults too: another release may have others."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in values.items() if key not in _NOT_THE_MODEL}


def class_of(config: Any) -> str:
    """The name of its class, with the module's."""
    kind = type(config)
    return f"{kind.__module__}.{kind.__qualname__}"


def config_from(values: Mapping[str, Any], class_name: str) -> Any:
    """The configuration again. `ModelError` where this transformers has no such class, or reads the
    values otherwise."""
    module, _, name = class_name.rpartition(".")
    if not module.startswith("transformers."):
        raise ModelError(
            f"this run's configuration is one of {class_name!r}, which is no class of "
            "transformers; sources.json of the run was changed: put back the one that the run wrote"
        )
    try:
        config = getattr(importlib.import_module(module), name).from_dict(dict(values))
    except Exception as error:
        raise ModelError(
            f"this run's configuration ({class_name}) cannot be read by the transformers that is "
            f"installed: {error}; install the release with which the run began"
        ) from error
    changed = changed_keys(values, config_values(config))
    if changed:
        raise ModelError(
            f"this run's configuration is read otherwise by the transformers that is installed: "
            f"{'; '.join(changed)}; install the release with which the run began"
        )
    return config


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> list[str]:
    """Keys that have another value, in words: `rms_norm_eps: 1e-06 then, 0.001 now`."""
    changed = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed += changed_keys(old, new, f"{path}{key}.")
        elif old != new:
            changed.append(f"{path}{key}: {_word(old)} then, {_word(new)} now")
    return changed


_ABSENT = object()


def _word(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value)
