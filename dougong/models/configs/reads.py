"""Which keys the sources of a transformers family read from its configuration, beside those that
its class declares: by the syntax of the sources, so that no other word of them counts. Imports no
torch."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SHARED_SOURCES = ("cache_utils.py", "masking_utils.py", "modeling_rope_utils.py")
_READERS = ("getattr", "hasattr")
_TAKERS = ("get", "pop", "setdefault")


def read_keys(config: Any) -> set[str]:
    """The keys that the family's own sources and transformers' code for all families read from a
    configuration (`head_dim` often is read without being declared)."""
    folder = Path(inspect.getfile(type(config))).parent
    shared = [folder.parent.parent / name for name in _SHARED_SOURCES]
    found: set[str] = set()
    for path in [*folder.glob("*.py"), *shared]:
        of_config = path.name.startswith("configuration_") or path.name == "modeling_rope_utils.py"
        found |= keys_read_by(path.read_text(encoding="utf-8"), of_config)
    return {key for key in found if not callable(getattr(type(config), key, None))}


def keys_read_by(source: str, of_config: bool) -> set[str]:
    """What one source reads from a configuration: `config.NAME`, `getattr(config, "NAME")`.
    `of_config`: it is a configuration's own, so `getattr(self, "NAME")` and `kwargs.pop("NAME")`
    count too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        found.update(_keys_of(node, of_config))
    # A part of a configuration may be a dict: its methods are no keys.
    return {key for key in found if not key.startswith("_") and not hasattr(dict, key)}


def _keys_of(node: ast.AST, of_config: bool) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and _is_config(node.value):
        yield node.attr
    elif isinstance(node, ast.Call) and (key := _text_argument(node)) is not None:
        yield from _key_of_call(node, key, of_config)


def _key_of_call(node: ast.Call, key: str, of_config: bool) -> Iterator[str]:
    called, first = node.func, node.args[0]
    if isinstance(called, ast.Name) and called.id in _READERS:
        is_read = _is_config(first) or (of_config and _is_named(first, "self"))
    elif isinstance(called, ast.Attribute) and called.attr in _TAKERS:
        is_read = of_config and _is_named(called.value, "kwargs")
    else:
        is_read = False
    if is_read:
        yield key


def _text_argument(node: ast.Call) -> str | None:
    """The first text among the first two arguments."""
    for argument in node.args[:2]:
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            return argument.value
    return None


def _is_config(node: ast.AST) -> bool:
    """Whether an expression is called as configurations are: `config`, `self.text_config`."""
    if isinstance(node, ast.Name):
        return node.id.endswith("config")
    return isinstance(node, ast.Attribute) and node.attr.endswith("config")


def _is_named(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
