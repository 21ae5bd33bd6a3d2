"""What a rule over several fields of a job is, and what rules look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.job.schema import Island, Job
from dougong.job.yaml.locations import KeyPath

EXPERT_COUNT_KEYS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
"""What families call the number of experts of a layer."""
TEXT_PART = "text_config"
"""Where the configuration of a family with towers has that of its language model."""


@dataclass(frozen=True)
class Breach:
    """A field that clashes with others, or with the files on this machine. `is_key`: its key is
    wrong, not its value; `on_resume`: the text where a run has recorded the job, which nobody edits
    then, if it is another one."""

    path: KeyPath
    text: str
    is_key: bool = False
    on_resume: str = ""


@dataclass(frozen=True)
class Rule:
    """`check` yields a breach for every clash; it looks at no other top-level sections than
    `sections`."""

    sections: tuple[str, ...]
    check: Callable[[Job], Iterator[Breach]]


def worker_names(islands: Iterable[Island]) -> list[str]:
    """All workers of the job, in rank order: `east/0`, `east/1`, `west/0`."""
    names: list[str] = []
    for island in islands:
        names += [f"{island.name}/{index}" for index in range(island.workers)]
    return names


def num_workers(job: Job, role: str) -> int:
    """Workers that compute this role; those of role `both` count."""
    return sum(island.workers for island in job.islands if island.role in (role, "both"))


def model_config(job: Job) -> dict[str, Any]:
    """The configuration as far as it can be read without transformers: the folder's, overlaid by
    the job's."""
    given = flat(job.model.config)
    if job.model.path is None:
        return given
    try:
        found = json.loads((Path(job.model.path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return given  # file_rules reports it
    return {**flat(found), **given} if isinstance(found, dict) else given


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's keys with those of its text part, which has the sizes, over them. The
    family's name is that of the whole."""
    text = config.get(TEXT_PART)
    if not isinstance(text, Mapping):
        return dict(config)
    family = {key: config[key] for key in ("model_type",) if key in config}
    return {**config, **text, **family}


def config_place(job: Job, key: str) -> KeyPath:
    """Where the job, else its folder, gives a key of the model's configuration."""
    inner = job.model.config.get(TEXT_PART)
    if isinstance(inner, Mapping) and key in inner:
        return ("model", "config", TEXT_PART, key)
    return ("model", "config", key) if key in job.model.config else ("model", "path")


def counts(config: Mapping[str, Any], keys: Iterable[str]) -> list[tuple[str, int]]:
    """(key, number) for those of `keys` that the configuration gives a whole number."""
    return [(key, config[key]) for key in keys if type(config.get(key)) is int]


FOLDER_CODE_KEYS = ("auto_map", "custom_pipelines")
"""Those that lead to files of their own folder: nothing is run by them unless it is asked for."""
CODE_KEYS = (
    *FOLDER_CODE_KEYS, "trust_remote_code", "code_revision", "use_kernels", "kernel_config",
    "allow_all_kernels", "custom_generate",
)  # fmt: skip
"""Keys by which transformers is told to run code that lies in a folder or on a hub."""


def foreign_code(values: object) -> tuple[str, str] | None:
    """Of a configuration, at any depth: the first key, with its value as text, by which
    transformers would fetch code from a hub and run it, such as a kernel `owner/name`."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if _asks_for_code(str(key), value):
                return str(key), str(value)
    inner = values.values() if isinstance(values, Mapping) else values
    for value in inner if isinstance(inner, Iterable) and not isinstance(inner, str) else ():
        found = foreign_code(value)
        if found is not None:
            return found
    return None


def _asks_for_code(key: str, value: object) -> bool:
    if key in CODE_KEYS:
        return bool(value) and key not in FOLDER_CODE_KEYS
    is_form = key.removesuffix("_internal").endswith("_implementation")
    return is_form and any("/" in text for text in _texts(value))


def without_code(values: Any) -> tuple[Any, tuple[str, ...]]:
    """What JSON holds without all that names code, at any depth, and the keys that are left out."""
    left: list[str] = []
    kept = _without_code(values, left)
    return kept, tuple(dict.fromkeys(left))


def _without_code(values: Any, left: list[str]) -> Any:
    if isinstance(values, list):
        return [_without_code(value, left) for value in values]
    if not isinstance(values, dict):
        return values
    kept = {}
    for key, value in values.items():
        if key in CODE_KEYS or _asks_for_code(key, value):
            left.append(key)
        else:
            kept[key] = _without_code(value, left)
    return kept


def _texts(value: object) -> Iterator[str]:
    """The strings in a value: a form may be given for each part of a model."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
