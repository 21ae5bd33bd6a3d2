"""Pydantic's findings in plain words: what is wrong, what was given, what to write instead."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dougong.accelerators.registry import meant_by
from dougong.job.drills.drill import NOT_A_LIST, UNKNOWN_FAULT
from dougong.job.lookup import field_at, places_of, section_at, value_at
from dougong.job.schema import Job
from dougong.job.section import PATTERNS, UNKNOWN_NAME, names_that_know, takes_list
from dougong.job.yaml.locations import KeyPath, read
from dougong.job.yaml.scalars import write_flow

Error = Mapping[str, Any]
"""One of pydantic's findings: type, loc, input, ctx, msg."""

_KINDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of keys",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must not be empty",
}
_SHAPES = ("model_type", "tuple_type")
_WORDS = ("literal_error", UNKNOWN_NAME, UNKNOWN_FAULT, NOT_A_LIST)
_SAME = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "ffn": "experts",
}
_OTHER_NAMES = {
    "learning_rate": "lr",
    "batch_size": "microbatch_size",
    "gradient_accumulation_steps": "microbatches",
    "accumulation": "microbatches",
    "grad_clip": "clip_norm",
    "max_grad_norm": "clip_norm",
    "max_steps": "steps",
    "num_steps": "steps",
    "seq_len": "sequence_length",
    "dtype": "precision",
}
"""What other programs call our keys."""
_MOST_CHARACTERS = 60
_OF_KEY = "[key]"
"""Pydantic adds it to the path of a mapping's key that is none of those that there are."""


@dataclass(frozen=True)
class Finding:
    """What is wrong at a path; `is_key`: its key, not its value."""

    path: KeyPath
    text: str
    is_key: bool = False


def explain(errors: Sequence[Error], data: Any) -> Iterator[Finding]:
    """What each error means, in what the user has written, `data`.

    A missing key is not reported where an unknown one beside it is its misspelling.
    """
    unknown = [error for error in errors if error["type"] == "extra_forbidden"]
    misspelt = {tuple(error["loc"]): _meant(error, data) for error in unknown}
    meant = [(*path[:-1], name) for path, name in misspelt.items() if name is not None]
    for error in errors:
        path = _without_branch(tuple(error["loc"]), data)
        if path in misspelt:
            yield Finding(path, _unknown_key(path, misspelt[path], data), is_key=True)
        elif error["type"] == "missing" and path in meant:
            continue
        elif path[-1:] == (_OF_KEY,):
            yield replace(_wrong_or_missing(path[:-1], error, data), is_key=True)
        elif not _is_said_elsewhere(error, path):
            yield _wrong_or_missing(path, error, data)


def _wrong_or_missing(path: KeyPath, error: Error, data: Any) -> Finding:
    if _is_item_count(error):
        return _wrong_count(path, error, data)
    if error["type"] == "missing":
        return Finding(path, f"missing; add `{path[-1]}: ...`, {_description(path, data)}")
    got = f"(got {_short(error['input'])})"
    return Finding(path, f"{_rule(path, error, data)} {got}{_advice(path, error, data)}")


def _without_branch(path: KeyPath, data: Any) -> KeyPath:
    """Where a field takes words or a number, pydantic adds to its path which of the two it
    tried."""
    field = field_at(path[:-1], data)
    if field is None or typing.get_origin(field.annotation) is dict:
        return path
    kinds = {typing.get_origin(part) for part in typing.get_args(field.annotation)}
    return path[:-1] if {typing.Literal, typing.Annotated} <= kinds else path


def _is_said_elsewhere(error: Error, path: KeyPath) -> bool:
    """Whether another error of the same value says it better."""
    if error["type"] == "too_short" and error["input"]:
        # Pydantic counts the valid items, and has named each of the others.
        return True
    if path == tuple(error["loc"]):
        return False
    # Of two branches: a word is held against the words, anything else against the number.
    is_word = isinstance(error["input"], str)
    is_held_against_words: bool = error["type"] == "literal_error"
    return is_word != is_held_against_words


def _is_item_count(error: Error) -> bool:
    """A tuple of fixed length got fewer or more items."""
    is_missing_item = error["type"] == "missing" and isinstance(error["loc"][-1], int)
    return is_missing_item or error["type"] == "too_long"


def _wrong_count(path: KeyPath, error: Error, data: Any) -> Finding:
    whole = path[:-1] if error["type"] == "missing" else path
    got = f"(got {_short(error['input'])})"
    text = f"must be {_shape(whole, data)} {got}: {_description(whole, data)}"
    return Finding(whole, text)


def _meant(error: Error, data: Any) -> str | None:
    """The key of the same section that an unknown one is close to; one that is not given yet is
    more likely. None where it looks like a key from elsewhere."""
    *parents, last = error["loc"]
    key = str(last).lower()
    section = section_at(tuple(parents), data)
    if section is None or _elsewhere(key):
        return None
    known = list(section.model_fields)
    if _OTHER_NAMES.get(key) in known:
        return _OTHER_NAMES[key]
    given = value_at(tuple(parents), data)
    free = [name for name in known if name not in given]
    for names in (free, known):
        close = difflib.get_close_matches(key, names, 1)
        if close:
            return close[0]
    return None


def _unknown_key(path: KeyPath, meant: str | None, data: Any) -> str:
    if meant:
        return f"unknown key; did you mean '{meant}'?"
    key = str(path[-1])
    field = field_at(path[:-1], data)
    names = names_that_know(field, key) if field is not None else []
    if names:
        choices = " or ".join(f"`name: {name}`" for name in names)
        return f"unknown key; `{key}` belongs to {choices}: choose that, or remove the key"
    elsewhere = _elsewhere(key) or _elsewhere(_OTHER_NAMES.get(key, key))
    if elsewhere:
        return f"unknown key; did you mean {' or '.join(elsewhere)}?"
    section = section_at(path[:-1], data)
    known = ", ".join(section.model_fields) if section else "none"
    return f"unknown key; known here are {known}"


def _elsewhere(key: str) -> list[str]:
    """Where else the schema knows a key, quoted for a message."""
    places = [f"'{place}'" for place in places_of(key)]
    if key in Job.model_fields:
        places.insert(0, f"'{key}' at the top level")
    return places


def _rule(path: KeyPath, error: Error, data: Any) -> str:
    """The rule that the value breaks."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _SHAPES:
        return f"must be {_shape(path, data)}"
    if kind in _WORDS:
        return f"must be {context['expected']}{_or_number(path, error)}"
    if kind == "string_pattern_mismatch":
        return f"must be {PATTERNS[context['pattern']]}"
    if kind in _KINDS:
        return _KINDS[kind].format(**context)
    return str(error["msg"])


def _or_number(path: KeyPath, error: Error) -> str:
    """Of a field that takes words or a number, pydantic tells the words alone."""
    has_branches = error["type"] == "literal_error" and path != tuple(error["loc"])
    return " or a number" if has_branches else ""


def _advice(path: KeyPath, error: Error, data: Any) -> str:
    """What to write instead, or what the key means."""
    kind, given = error["type"], error["input"]
    if kind in _SHAPES:
        return _leave_out(path, given, data)
    if kind in _WORDS:
        return _other_word(error)
    if kind == "string_pattern_mismatch":
        return ""
    if _is_quoted_number(kind, given):
        return "; write it without quotes"
    return f": {_description(path, data)}"


def _shape(path: KeyPath, data: Any) -> str:
    """What a section, a list of sections or a pair looks like."""
    section = section_at(path, data)
    field = field_at(path, data)
    is_list = field is not None and takes_list(field)
    item = f"a mapping with the keys {', '.join(section.model_fields)}" if section else "2 values"
    if section is None and field is not None and "..." in str(field.annotation):
        return "a list"
    if not is_list or isinstance(path[-1], int):
        return item
    return f"a list of {item}" if section is None else f"a list, each item {item}"


def _leave_out(path: KeyPath, given: Any, data: Any) -> str:
    field = field_at(path, data)
    if given is not None or field is None or field.is_required():
        return ""
    return "; remove the key to get the default"


def _is_quoted_number(kind: str, given: Any) -> bool:
    if kind not in ("int_type", "float_type") or not isinstance(given, str):
        return False
    return type(read(given).data) in (int, float)


def _description(path: KeyPath, data: Any) -> str:
    field = field_at(path, data) or field_at(path[:-1], data)
    return field.description if field and field.description else "see docs/job-file.md"


def _other_word(error: Error) -> str:
    """What to write instead of a word that is none of the expected ones."""
    names = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
    word = str(error["input"]).lower()
    same = meant_by(word) if error["ctx"].get("what") == "accelerator" else _SAME.get(word)
    if same in names:
        return f"; did you mean '{same}'?"
    close = difflib.get_close_matches(word, names, 1)
    if close:
        return f"; did you mean '{close[0]}'?"
    if error["type"] == UNKNOWN_NAME:
        group = f"dougong.{error['ctx']['what']}s"
        return f"; use one of them, or install a package that adds it as an entry point of {group}"
    return "; use one of them" if len(names) > 1 else ""


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else write_flow(value)
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."
