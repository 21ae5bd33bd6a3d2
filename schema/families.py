"""Write dougong/job/families.json from the transformers that is installed: python
schema/families.py."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import transformers
from transformers import CONFIG_MAPPING

from dougong.errors import ModelError
from dougong.job.families import FAMILIES_FILE, Families, Family, to_json
from dougong.job.schema import Model
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.configs.parts import declared_keys, keys_of_other_parts, text_config
from dougong.models.configs.reads import read_keys
from dougong.models.library.classes import model_class
from dougong.models.sites import find_sites
from tests.packing_probe import keeps_documents_apart

_KINDS: dict[Any, str] = {
    int: "int", float: "float", bool: "bool", str: "str", NoneType: "null",
    list: "list", tuple: "list", set: "list", dict: "dict",
}  # fmt: skip
_NO_EXPERTS = "has no module named `experts`"


def main() -> None:
    """Replace the list."""
    found = find_families()
    packed = frozenset(filter(keeps_documents_apart, found.with_experts))
    text = json.dumps(to_json(dataclasses.replace(found, packed=packed)), indent=1) + "\n"
    FAMILIES_FILE.write_text(text, encoding="utf-8")


def find_families() -> Families:
    """Every model type of the installed transformers, built with its own defaults where it can
    be."""
    with_experts: dict[str, Family] = {}
    refused: dict[str, str] = {}
    dense, others = set(), set()
    for name in CONFIG_MAPPING:
        config = config_of(name)
        if config is None or model_class(config) is None:
            others.add(name)
            continue
        problem = problem_of(config)
        if problem is None:
            with_experts[name] = family_of(CONFIG_MAPPING[name](), config)
        elif problem:
            refused[name] = problem
        else:
            dense.add(name)
    version = transformers.__version__
    return Families(version, with_experts, refused, frozenset(dense), frozenset(others))


def config_of(name: str) -> Any | None:
    """A family's configuration of its language part with all defaults; None where it has none."""
    try:
        return load_config(Model(family=name), None)
    except ModelError:
        return None


def problem_of(config: Any) -> str | None:
    """Why a family cannot be trained; empty where it has no experts, None where nothing is known
    against it: other values than the defaults may be needed to build it, or to give it experts."""
    may_have_experts = "xperts" in sources_of(config)
    try:
        model = build_on_meta(config)
    except Exception:
        return None if may_have_experts else ""
    try:
        find_sites(model)
    except ModelError as error:
        if _NO_EXPERTS not in str(error):
            return str(error)
        return None if gets_experts(config) else ""
    return None


def gets_experts(config: Any) -> bool:
    """Whether a family that has no experts by default has them when its keys ask for them."""
    asked = copy.deepcopy(config)
    text = text_config(asked)
    about = [key for key in sorted(declared_keys(text)) if "moe" in key or "expert" in key]
    for key in about:
        value = getattr(text, key, None)
        if value is False:
            setattr(text, key, True)
        elif not value:
            setattr(text, key, 2)
    try:
        return bool(find_sites(build_on_meta(asked)))
    except Exception:
        return False


def sources_of(config: Any) -> str:
    """The family's own sources."""
    folder = Path(inspect.getfile(type(config))).parent
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))


def family_of(outer: Any, config: Any) -> Family:
    """What its configuration class declares, and what its sources read beside that. `outer`: that
    of all parts, whose keys are taken beside those of the text part."""
    text = text_config(config)
    parts = [text] if type(outer) is type(text) else [outer, text]
    keys: dict[str, tuple[str, ...]] = {}
    words: set[str] = set()
    for part in parts:
        keys |= declared_kinds(part)
        words |= read_keys(part)
    return Family(
        keys=keys,
        words=frozenset(words - keys.keys() - keys_of_other_parts(outer).keys()),
        names=dict(getattr(type(text), "attribute_map", None) or {}),
        vocab_size=number(text, "vocab_size"),
        max_positions=number(text, "max_position_embeddings"),
    )


def declared_kinds(config: Any) -> dict[str, tuple[str, ...]]:
    """The keys that a configuration class declares, each with the kinds of value that it takes."""
    annotations: dict[str, Any] = {}
    for kind in reversed(type(config).__mro__):
        annotations |= vars(kind).get("__annotations__", {})
    # Two names of one key: the class annotates one of them.
    names = dict(getattr(type(config), "attribute_map", None) or {})
    others = {**names, **{real: other for other, real in names.items()}}
    keys = {}
    for key in declared_keys(config):
        annotation = annotations.get(key, annotations.get(others.get(key, key), Any))
        keys[key] = kinds_of(annotation)
    return keys


def number(config: Any, key: str) -> int | None:
    value = getattr(config, key, None)
    return value if type(value) is int else None


def kinds_of(annotation: Any) -> tuple[str, ...]:
    """The kinds of value that an annotation allows; none where any will do."""
    if isinstance(annotation, str):  # `int | None`, as the sources have it
        parts: list[Any] = [part.strip().partition("[")[0] for part in annotation.split("|")]
        names = {**{kind.__name__: word for kind, word in _KINDS.items()}, "None": "null"}
        found = [names.get(part) for part in parts]
    else:
        found = [_KINDS.get(part) for part in members(annotation)]
    return tuple(sorted({kind for kind in found if kind})) if all(found) else ()


def members(annotation: Any) -> list[Any]:
    """The classes of a union, of one class, or of literal values."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return [one for part in get_args(annotation) for one in members(part)]
    if origin is Literal:
        return [type(value) for value in get_args(annotation)]
    return [origin or annotation]


if __name__ == "__main__":
    main()
