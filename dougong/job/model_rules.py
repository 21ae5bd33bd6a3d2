"""Rules that hold a job's model against the list of transformers' families: what building the model
would refuse, told with its place in the job file.

They say nothing where the list is of another transformers than the one that is installed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dougong.job.families import Families, Family, given_twice
from dougong.job.rule import (
    CODE_KEYS,
    TEXT_PART,
    Breach,
    Rule,
    config_place,
    counts,
    flat,
    foreign_code,
    model_config,
)
from dougong.job.schema import Job
from dougong.job.tokenizer_rules import longer_than
from dougong.job.yaml.locations import KeyPath
from dougong.job.yaml.scalars import write_flow

_WORDS = {
    "int": "a whole number",
    "float": "a number with a decimal point",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "dict": "a mapping of keys",
    "null": "null",
}
_KINDS: dict[type, str] = {
    int: "int", float: "float", bool: "bool", str: "str", list: "list", dict: "dict",
    type(None): "null",
}  # fmt: skip
_EXAMPLES = ("qwen3_moe", "deepseek_v3", "mixtral")
_HEADS = ("num_attention_heads", "num_key_value_heads")
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers",
    "head_dim", "max_position_embeddings", "num_experts_per_tok", *_HEADS,
)  # fmt: skip
_NEARLY = 0.8
"""How alike two names are of which one is taken for the other, misspelt."""


def model_rules(families: Families) -> tuple[Rule, ...]:
    """The rules of this list, which says nothing where another transformers is installed, and
    those of sizes, which no transformers could build."""
    sizes = (Rule(("model",), _sizes), Rule(("model",), _heads), Rule(("model",), _code))
    if not families.is_of_installed:
        return sizes
    rules = _ModelRules(families)
    return (
        Rule(("model",), rules.family),
        Rule(("model",), rules.keys),
        Rule(("model",), rules.names),
        Rule(("model", "data"), rules.positions),
        Rule(("model", "data"), rules.packing),
        *sizes,
    )


def _code(job: Job) -> Iterator[Breach]:
    """Code of a folder or a hub, which dougong never runs."""
    given = job.model.config
    for key in given:
        found = foreign_code({key: given[key]})
        if key in CODE_KEYS or found is not None:
            what = f"{key}: {write_flow(given[key])}"
            if found is not None and key not in CODE_KEYS:
                what = ": ".join(found)
            text = f"asks for code from elsewhere ({what}); dougong runs none: leave it out"
            yield Breach(("model", "config", key), text, is_key=True)
    own = flat(given)
    folders = {key: value for key, value in model_config(job).items() if key not in own}
    found = foreign_code(folders)
    if found is not None:
        text = f"its config.json asks for code from elsewhere ({': '.join(found)}); dougong runs "
        yield Breach(("model", "path"), f"{text}none: take that line out")


def _sizes(job: Job) -> Iterator[Breach]:
    """Sizes of which nothing can be built."""
    for key, size in counts(model_config(job), _SIZES):
        if size < 1:
            text = f"{key} must be at least 1 (got {size})"
            yield Breach(config_place(job, key), text)


def _heads(job: Job) -> Iterator[Breach]:
    """Each head of keys and values serves as many heads of queries."""
    found = dict(counts(model_config(job), _HEADS))
    if len(found) < len(_HEADS) or min(found.values()) < 1:
        return
    queries, keys = (found[key] for key in _HEADS)
    if queries % keys:
        text = f"{_HEADS[0]} ({queries}) must be a multiple of {_HEADS[1]} ({keys})"
        given = [key for key in _HEADS if key in flat(job.model.config)]
        yield Breach(config_place(job, given[-1] if given else _HEADS[1]), text)


def why_not_trained(known: Families, name: str, has_code: bool = False) -> str:
    """Why a family that is none with experts cannot be trained, and what can. `has_code`: its
    folder names code of its own."""
    instead = _with_experts(known, name)
    if name in known.refused:
        return known.refused[name]
    if name in known.dense:
        return f"{name} is a dense family, which has no experts; {instead}"
    if name in known.others:
        return f"transformers has no model of {name} that learns from texts; {instead}"
    if has_code:
        text = f"{name!r} needs its own code (auto_map in its config.json); dougong runs none"
        return f"{text}; {instead}"
    hint = _nearest(name, known.names, 3) or instead
    return f"transformers {known.version} knows no {name!r}; {hint}"


def _with_experts(known: Families, name: str) -> str:
    near = difflib.get_close_matches(name, list(known.with_experts), 3, _NEARLY)
    names = ", ".join(near or _EXAMPLES)
    return f"give a mixture-of-experts family, such as {names}"


@dataclass(frozen=True)
class _ModelRules:
    families: Families

    def family(self, job: Job) -> Iterator[Breach]:
        name = _family_name(job)
        if name is None or name in self.families.with_experts:
            return
        path = ("model", "family" if job.model.path is None else "path")
        yield Breach(path, why_not_trained(self.families, name, "auto_map" in model_config(job)))

    def keys(self, job: Job) -> Iterator[Breach]:
        """Keys that nothing would read, and values of a kind that a key does not take."""
        name = _family_name(job)
        family = self.families.with_experts.get(name or "")
        if family is None:
            return
        for path, value in _given(job):
            key = str(path[-1])
            if key in CODE_KEYS or foreign_code({key: value}) is not None:
                continue  # refused as such
            if not family.knows(key):
                hint = _nearest(key, family.keys, 1) or f"its keys are in transformers' {name}"
                yield Breach(path, f"{name} does not know it; {hint}", is_key=True)
            elif not _takes(family, key, value):
                yield Breach(path, _wrong_kind(family.keys[key], value))

    def names(self, job: Job) -> Iterator[Breach]:
        """One key under two of its names."""
        name = _family_name(job) or ""
        family = self.families.with_experts.get(name)
        if family is None:
            return
        config = flat(job.model.config)
        for first, other in given_twice(config, family.names):
            values = f"{write_flow(config[first])} and {write_flow(config[other])}"
            text = f"{first} and {other} are one key of {name}, given as {values}; leave one out"
            yield Breach(config_place(job, other), text, is_key=True)

    def packing(self, job: Job) -> Iterator[Breach]:
        """Documents of one sequence must not look at each other."""
        family = _family_name(job) or ""
        if family not in self.families.with_experts or family in self.families.packed:
            return
        rule = (
            f"{family} does not keep the documents of a sequence apart (seen when it ran with "
            "several; linear attention and convolutions look across)"
        )
        if job.data.packing:
            text = (
                f"{rule}, so chats would be learnt from each other; set packing: false: each in a "
                "sequence of its own, padded"
            )
            yield Breach(("data", "packing"), text)
        if job.data.document_masks:
            text = f"{rule}, so no mask would part them; set document_masks: false"
            yield Breach(("data", "document_masks"), text)

    def positions(self, job: Job) -> Iterator[Breach]:
        """Where the job leaves the number of positions to the family."""
        family = self.families.with_experts.get(_family_name(job) or "")
        if family is None or "max_position_embeddings" in model_config(job):
            return
        if family.max_positions is not None:
            breach = longer_than(job, family.max_positions)
            if breach is not None:
                yield breach


def _given(job: Job) -> Iterator[tuple[KeyPath, Any]]:
    """(place, value) of the job's keys, those of the text part too. Other parts' keys are held
    against their classes where the model is built."""
    for key, value in job.model.config.items():
        yield ("model", "config", key), value
        if key == TEXT_PART and isinstance(value, Mapping):
            for inner, inner_value in value.items():
                yield ("model", "config", TEXT_PART, inner), inner_value


def _family_name(job: Job) -> str | None:
    """As the job says it, or the folder's config.json; None where neither does."""
    if job.model.path is None:
        return job.model.family
    name = model_config(job).get("model_type")
    return name if isinstance(name, str) else None


def _nearest(word: str, known: Iterable[str], count: int) -> str:
    near = difflib.get_close_matches(word, list(known), count)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def _takes(family: Family, key: str, value: Any) -> bool:
    kinds = family.keys.get(key, ())
    return not kinds or _KINDS.get(type(value)) in kinds


def _wrong_kind(kinds: Iterable[str], value: Any) -> str:
    kinds = list(kinds)
    wanted = " or ".join(_WORDS[kind] for kind in kinds)
    text = f"must be {wanted} (got {write_flow(value)})"
    # YAML tells 1 from 1.0, and so do transformers' configurations.
    if type(value) is int and "float" in kinds:
        return f"{text}; write {value}.0"
    if type(value) is float and "int" in kinds and value.is_integer():
        return f"{text}; write {int(value)}"
    return text
