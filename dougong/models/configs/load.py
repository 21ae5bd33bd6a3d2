"""A job's model configuration: transformers' own of the family, or of the folder, with the job's
changes, and nothing in it that nobody reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dougong.errors import ModelError
from dougong.job.families import given_twice
from dougong.job.rule import TEXT_PART, flat
from dougong.job.schema import Model
from dougong.job.settled import SettledModel
from dougong.models.configs.of_folder import (
    declare_no_extra_layers,
    folder_config,
    refuse_code_keys,
    untied_pair,
)
from dougong.models.configs.parts import (
    SPECIAL_TOKENS,
    by_part,
    declared_keys,
    keys_of_other_parts,
    parts_of,
    text_config,
    to_build,
)
from dougong.models.configs.reads import read_keys
from dougong.models.configs.settled import config_from
from dougong.models.library.attention_forms import refuse_fetched_forms, use_form


def load_config(model: Model, vocab_size: int | None) -> Any:
    """The family's own configuration. `vocab_size` is the tokenizer's (None: unknown), used where
    the job names none. Of a run that has begun it is the one that the run has stored, and nothing
    else is read.

    Raises `ModelError` for an unknown family, a key that the family does not know, or a folder
    without a configuration.
    """
    from transformers import logging

    logging.set_verbosity_error()
    if isinstance(model, SettledModel):
        config = config_from(model.settled, model.settled_class)
    else:
        config = _read_checked(model, vocab_size)
    use_form(config, model.attention)
    refuse_fetched_forms(config)
    return config


def _read_checked(model: Model, vocab_size: int | None) -> Any:
    config = _read_config(model, vocab_size)
    _refuse_unknown_keys(model, config)
    text = text_config(config)
    for first, other in given_twice(flat(model.config), getattr(text, "attribute_map", None) or {}):
        raise ModelError(
            f"model.config: {first} and {other} are one key of {text.model_type} and have "
            "different values; leave one out"
        )
    declare_no_extra_layers(model, text)
    return config if model.path is not None else to_build(config)


def _read_config(model: Model, vocab_size: int | None) -> Any:
    if model.path is None:
        refuse_code_keys(model.config)
        return _family_config(model.family or "", model.config, vocab_size)
    config = folder_config(model)
    if untied_pair(model, config) is not None:
        config.tie_word_embeddings = False
    return config


def _family_config(family: str, given: Mapping[str, Any], vocab_size: int | None) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    _refuse_unknown_family(family)
    try:
        values = by_part(CONFIG_MAPPING[family], given)
        _fill_vocabulary(values, vocab_size)
        config = AutoConfig.for_model(family, **values)
        _drop_foreign_tokens(text_config(config), flat(given))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"model.family: {family}: transformers cannot make this configuration: {error}"
        ) from error
    return config


def _fill_vocabulary(values: dict[str, Any], vocab_size: int | None) -> None:
    """The tokenizer's number of ids, where the job names none."""
    text = values.get(TEXT_PART, values)
    if vocab_size is not None:
        text.setdefault("vocab_size", vocab_size)


def _refuse_unknown_family(family: str) -> None:
    from transformers import CONFIG_MAPPING

    if family not in CONFIG_MAPPING:
        hint = _nearest([family], CONFIG_MAPPING.keys(), 3)
        hint = hint or "give a transformers model type, such as qwen3_moe"
        raise ModelError(f"model.family: transformers knows no {family!r}; {hint}")


def _drop_foreign_tokens(config: Any, given: Mapping[str, Any]) -> None:
    """A family's default ids of special tokens may lie outside the job's vocabulary."""
    vocab_size = getattr(config, "vocab_size", None)
    if vocab_size is None:  # no model of a language
        return
    for token in SPECIAL_TOKENS:
        value = getattr(config, token, None)
        if token not in given and isinstance(value, int) and value >= vocab_size:
            setattr(config, token, None)


def _nearest(words: Iterable[str], known: Iterable[str], count: int) -> str:
    """A question that names the known words nearest to `words`; empty where none is near."""
    candidates = list(known)
    near: list[str] = []
    for word in words:
        near += difflib.get_close_matches(word, candidates, count)
    return f"did you mean {', '.join(near)}?" if near else ""


def _refuse_unknown_keys(model: Model, config: Any) -> None:
    """Refuse keys of `model.config` that nothing reads.

    A key must be declared by the configuration class, or read by the sources all the same
    (`head_dim` often is): transformers keeps any other key too, and nothing ever looks at it.
    """
    text = text_config(config)
    for part, given in ((text, model.config), *_given_to_parts(model.config, config)):
        known = declared_keys(part) | (declared_keys(config) if part is text else set())
        unknown = sorted(set(given) - known)
        read = read_keys(part) if unknown else set()
        others = keys_of_other_parts(config) if part is text else {}
        unknown = [key for key in unknown if key not in read or key in others]
        if unknown:
            hint = _elsewhere(unknown, others) or _nearest(unknown, known, 1)
            hint = hint or f"its keys are those of {type(part).__name__}"
            raise ModelError(
                f"model.config: {part.model_type} does not know {', '.join(unknown)}; {hint}"
            )


def _elsewhere(unknown: Iterable[str], others: Mapping[str, str]) -> str:
    places = dict.fromkeys(others[key] for key in unknown if key in others)
    return f"write it in {', '.join(places)}" if places else ""


def _given_to_parts(
    given: Mapping[str, Any], config: Any
) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """(part, what the job gives to it by the part's name)."""
    for key, part in parts_of(config):
        values = given.get(key)
        if isinstance(values, Mapping):
            yield part, values
            yield from _given_to_parts(values, part)
