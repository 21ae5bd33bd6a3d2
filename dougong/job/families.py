"""What transformers knows of model families, as a list in this package: so that a job file is
checked without importing transformers or torch.

`families.json` is written by `make families` for one version of transformers. It says nothing about
another version: then the model is checked when it is built.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FAMILIES_FILE = Path(__file__).with_name("families.json")


@dataclass(frozen=True)
class Family:
    """A family that may have experts.

    `keys`: what its configuration declares, each with the kinds of value that it takes (`int`,
    `float`, `bool`, `str`, `list`, `dict`, `null`; none where any will do). `words`: what its
    sources read from it beside them. `names`: other name -> the key that it means. `vocab_size`,
    `max_positions`: its own defaults.
    """

    keys: Mapping[str, tuple[str, ...]]
    words: frozenset[str]
    vocab_size: int | None = None
    max_positions: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def knows(self, key: str) -> bool:
        return key in self.keys or key in self.words


@dataclass(frozen=True)
class Families:
    """All model types of one `version` of transformers. `with_experts`: those that may be trained;
    `packed`: those of them that keep several documents of a sequence apart by their positions;
    `refused`: family -> why its experts cannot be cut; `dense`: without experts; `others`: no
    causal language model."""

    version: str
    with_experts: Mapping[str, Family]
    refused: Mapping[str, str]
    dense: frozenset[str]
    others: frozenset[str]
    packed: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        return sorted({*self.with_experts, *self.refused, *self.dense, *self.others})

    @property
    def is_of_installed(self) -> bool:
        """Whether the list speaks of the transformers that is installed here."""
        try:
            return importlib.metadata.version("transformers") == self.version
        except importlib.metadata.PackageNotFoundError:
            return False


def read_families(file: Path = FAMILIES_FILE) -> Families:
    """The list as it lies in the package."""
    found = json.loads(file.read_text(encoding="utf-8"))
    common = {key: _kinds(text) for key, text in found["common"].items()}
    words = frozenset(found["words"].split())
    known = {}
    for name, entry in found["with_experts"].items():
        known[name] = _family(entry, common, words)
    return Families(
        version=found["transformers"],
        with_experts=known,
        refused=found["refused"],
        dense=frozenset(found["dense"]),
        others=frozenset(found["others"]),
        packed=frozenset(found["packed"]),
    )


def given_twice(config: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of keys that mean one and have other values; `names`: other name -> the key that it
    means. Whichever is set last would win."""
    seen: dict[str, str] = {}
    for key, value in config.items():
        first = seen.setdefault(names.get(key, key), key)
        if config[first] != value:
            yield first, key


def to_json(families: Families) -> dict[str, Any]:
    """The list as its file holds it: what all families share is said once."""
    known = families.with_experts
    everywhere = [family.keys.items() for family in known.values()]
    common = dict(set(everywhere[0]).intersection(*everywhere))
    words = frozenset.intersection(*(family.words for family in known.values()))
    entries = {name: _entry(known[name], common, words) for name in sorted(known)}
    return {
        "transformers": families.version,
        "common": {key: "|".join(kinds) for key, kinds in sorted(common.items())},
        "words": " ".join(sorted(words)),
        "with_experts": entries,
        "refused": dict(sorted(families.refused.items())),
        "dense": sorted(families.dense),
        "others": sorted(families.others),
        "packed": sorted(families.packed),
    }


def _family(
    entry: Mapping[str, Any], common: Mapping[str, tuple[str, ...]], words: frozenset[str]
) -> Family:
    own = {key: _kinds(text) for key, text in entry["keys"].items()}
    return Family(
        keys={**common, **own},
        words=words | set(entry["words"].split()),
        vocab_size=entry["vocab_size"],
        max_positions=entry["max_positions"],
        names=entry["names"],
    )


def _entry(
    family: Family, common: Mapping[str, tuple[str, ...]], words: frozenset[str]
) -> dict[str, Any]:
    own = sorted(family.keys.items() - common.items())
    return {
        "vocab_size": family.vocab_size,
        "max_positions": family.max_positions,
        "names": dict(sorted(family.names.items())),
        "keys": {key: "|".join(kinds) for key, kinds in own},
        "words": " ".join(sorted(family.words - words)),
    }


def _kinds(text: str) -> tuple[str, ...]:
    return tuple(text.split("|")) if text else ()
