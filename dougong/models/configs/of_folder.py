"""The configuration of a Hugging Face folder: read without running its code, and made to say what
is true of the model that is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dougong.errors import ModelError
from dougong.job.rule import CODE_KEYS, flat, foreign_code
from dougong.job.schema import Model
from dougong.models.configs.parts import by_part
from dougong.models.library.transformers_internals import declared_ties
from dougong.models.stored.folder import EXTRA_LAYERS, read_config
from dougong.models.stored.quantised import KEYS
from dougong.models.stored.weights import differing_tie

LOADER_KEYS = (
    "cache_dir", "force_download", "proxies", "token", "local_files_only", "revision", "subfolder",
    "gguf_file", "return_unused_kwargs", "name_or_path", "_commit_hash", "_configuration_file",
    "_from_auto", "_from_pipeline",
)  # fmt: skip
"""What transformers' loader of configurations takes for itself, of all that it is given."""


def folder_config(model: Model) -> Any:
    """The configuration of `model.path` with the job's changes, before anything is seen of the
    weights. No code of the folder runs.

    Raises `ModelError` when there is none, it needs code of its own, or its weights are quantised
    in a way that is not read.
    """
    from transformers import AutoConfig

    path = model.path or ""
    refuse_code_keys(model.config)
    refuse_own_code(path)
    changes = _by_part_of(path, model.config)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **changes)
    except Exception as error:
        raise ModelError(
            f"model.path: {path}: transformers cannot read this configuration: {error}"
        ) from error
    # It says where a family's own code lies. None of it runs here, and none goes into a checkpoint;
    # and how the folder's weights are quantised, which those of a run are not.
    _drop(config, (*CODE_KEYS, *KEYS))
    return config


def _by_part_of(path: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The job's changes as this folder's class of configurations takes them."""
    from transformers import CONFIG_MAPPING

    family = str(read_config(Path(path)).get("model_type"))
    return by_part(CONFIG_MAPPING[family], given) if family in CONFIG_MAPPING else given


def _drop(config: Any, keys: Sequence[str]) -> None:
    for key in keys:
        vars(config).pop(key, None)
    for inner in list(vars(config).values()):
        if hasattr(inner, "model_type"):  # the configuration of a part
            _drop(inner, keys)


def untied_pair(model: Model, config: Any) -> tuple[str, str] | None:
    """The stored tensors that `config` (of `folder_config`) ties although the folder holds both
    with different values; transformers does not tie such two. None where there are none, or where
    the job itself says that they are tied."""
    if "tie_word_embeddings" in model.config:
        return None
    ties = declared_ties(config)
    return differing_tie(Path(model.path or ""), ties) if ties else None


def refuse_own_code(path: str) -> None:
    """ModelError for a folder whose config.json needs code of its own, or asks for code from
    elsewhere."""
    from transformers import CONFIG_MAPPING

    values = read_config(Path(path))
    family = values.get("model_type")
    if "auto_map" in values and family not in CONFIG_MAPPING:
        raise ModelError(
            f"model.path: {path}: its family {family!r} needs its own code (auto_map in its "
            "config.json); dougong runs none. Give a folder of a family that transformers knows, "
            "or a release of transformers that knows this one"
        )
    found = foreign_code(values)
    if found is not None:
        raise ModelError(
            f"model.path: {path}: its config.json asks for code from elsewhere "
            f"({': '.join(found)}); dougong runs none: take that line out"
        )


def refuse_code_keys(given: Mapping[str, Any]) -> None:
    """ModelError for a job's keys that ask for code from elsewhere, or that transformers would take
    for orders where to look for a configuration, not for keys of it."""
    for key in given:
        found = foreign_code({key: given[key]})
        if key in CODE_KEYS or found is not None:
            what = f"{key}: {given[key]}" if found is None else ": ".join(found)
            raise ModelError(
                f"model.config: asks for code from elsewhere ({what}); dougong runs none: leave it "
                "out"
            )
        if key in LOADER_KEYS:
            raise ModelError(
                f"model.config: {key} is no key of a configuration; leave it out, and name the "
                "folder itself in model.path"
            )


def declare_no_extra_layers(model: Model, config: Any) -> None:
    """No family's layers for the prediction of further tokens are built or trained, so no
    configuration may say that a checkpoint holds them."""
    for key in EXTRA_LAYERS:
        if flat(model.config).get(key):
            raise ModelError(
                f"model.config: {key}: {config.model_type} is trained without layers that predict "
                f"further tokens; leave it out, or set it to 0"
            )
    for key in extra_layers(config):
        setattr(config, key, type(getattr(config, key))(0))


def extra_layers(config: Any) -> list[str]:
    """The keys by which a configuration says that there are layers for the prediction of further
    tokens (multi-token prediction, DeepSeek-V3 section 2.2). One number goes by one name: a class
    may know a second one for it (`attribute_map`), which no file holds."""
    aliases = getattr(type(config), "attribute_map", {})
    return [key for key in EXTRA_LAYERS if key not in aliases and getattr(config, key, None)]
