"""What begins and ends a document: the special tokens of a tokenizer's folder, found as
transformers finds them. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dougong.data.documents.formats import refuse_other_than_json
from dougong.errors import DataError
from dougong.remarks import NOTHING, Remarks

if TYPE_CHECKING:
    import tokenizers

Bos = Literal["auto", True, False]
"""`data.bos` of a job."""

_CONFIG = "tokenizer_config.json"
_MAP = "special_tokens_map.json"
_MODEL_CONFIGS = ("generation_config.json", "config.json")
_PROBE = "a"


@dataclass(frozen=True)
class DocumentMarks:
    """The ids that are written before and after each document."""

    start: tuple[int, ...] = ()
    end: int | None = None
    remarks: Remarks = NOTHING


@dataclass(frozen=True)
class _Found:
    """An id, and the file that names it."""

    id: int
    source: str


def find_marks(folder: Path, model: tokenizers.Tokenizer, bos: Bos) -> DocumentMarks:
    """The marks of a tokenizer whose files lie in `folder`.

    Raises DataError for a file there that is no JSON object, and where `bos` asks for a token that
    the tokenizer does not name.
    """
    settings = _read_settings(folder)
    end = _find_end(folder, settings, model)
    added = _added_before(model)
    start = _find_start(folder, settings, model, bos)
    remarks = _remarks(folder, model, start, end)
    if bos == "auto" and added and settings.get("add_bos_token") is False:
        clash = (
            f"{folder}: {_CONFIG} says add_bos_token: false, but tokenizer.json puts "
            f"{_words(model, added)} before a text, as transformers 5 does too; `data.bos: true` "
            "or `false` settles it"
        )
        remarks += Remarks(warnings=(clash,))
    return DocumentMarks(start, None if end is None else end.id, remarks)


def _read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json with the older special_tokens_map.json: over it where it comes from a
    time when that file led (it lists no added tokens), else below it."""
    config, older = read_object(folder / _CONFIG), read_object(folder / _MAP)
    if "added_tokens_decoder" in config:
        return older | config
    return config | older


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no such file. Raises DataError for anything
    else."""
    if not file.exists():
        return {}
    try:
        refuse_other_than_json(file)
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file}: not a JSON object ({error}); copy the tokenizer's folder again"
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{file}: not a JSON object; copy the tokenizer's folder again")
    return found


def _find_end(
    folder: Path, settings: Mapping[str, Any], model: tokenizers.Tokenizer
) -> _Found | None:
    named = _token(settings, "eos_token", model)
    if named is not None:
        in_config = read_object(folder / _CONFIG).get("eos_token") == settings["eos_token"]
        return _Found(named, _CONFIG if in_config else _MAP)
    for found in _ends_elsewhere(folder, settings, model):
        if model.id_to_token(found.id) is not None:
            return found
    return None


def _ends_elsewhere(
    folder: Path, settings: Mapping[str, Any], model: tokenizers.Tokenizer
) -> Iterator[_Found]:
    """Where an end is named if the tokenizer's own files do not: its class, the model's
    configurations, what the tokenizer puts behind a text."""
    if "tokenizer_class" in settings:
        own = _class_default(folder, model)
        if own is not None:
            yield _Found(own, f"the default of {settings['tokenizer_class']}")
    for name in _MODEL_CONFIGS:
        ends = read_object(folder / name).get("eos_token_id")
        first = ends[0] if isinstance(ends, list) and ends else ends
        if type(first) is int:
            yield _Found(first, name)
    behind = _added_behind(model)
    if behind:
        yield _Found(behind[-1], "tokenizer.json")


def _class_default(folder: Path, model: tokenizers.Tokenizer) -> int | None:
    """The end that transformers gives a tokenizer of this class, if the vocabulary has it."""
    from transformers import AutoTokenizer

    try:
        whole = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception:  # Many kinds; the tokenizer itself is read without it.
        return None
    return _id_of(whole.eos_token, model)


def _find_start(
    folder: Path, settings: Mapping[str, Any], model: tokenizers.Tokenizer, bos: Bos
) -> tuple[int, ...]:
    if bos is False:
        return ()
    added = _added_before(model)
    if added or (bos == "auto" and settings.get("add_bos_token") is not True):
        return added
    named = _token(settings, "bos_token", model)
    if named is not None:
        return (named,)
    if bos is True:
        raise DataError(
            f"data.bos: true, but {folder} names no bos_token of its vocabulary; name one in "
            f"{folder / _CONFIG}, or remove data.bos"
        )
    return ()


def _token(settings: Mapping[str, Any], key: str, model: tokenizers.Tokenizer) -> int | None:
    """The id of a special token, which stands there as text or as an object with `content`."""
    token = settings.get(key)
    text = token.get("content") if isinstance(token, dict) else token
    return _id_of(text, model)


def _id_of(text: Any, model: tokenizers.Tokenizer) -> int | None:
    found = model.token_to_id(text) if isinstance(text, str) else None
    return None if found is None else int(found)


def _added_before(model: tokenizers.Tokenizer) -> tuple[int, ...]:
    """The ids that the tokenizer's post-processor puts before a text."""
    whole, bare = _with_and_without(model)
    for place in range(len(whole) - len(bare) + 1):
        if whole[place : place + len(bare)] == bare:
            return tuple(whole[:place])
    return ()


def _added_behind(model: tokenizers.Tokenizer) -> tuple[int, ...]:
    whole, bare = _with_and_without(model)
    return tuple(whole[len(_added_before(model)) + len(bare) :])


def _with_and_without(model: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    whole = model.encode(_PROBE, add_special_tokens=True).ids
    return whole, model.encode(_PROBE, add_special_tokens=False).ids


def _remarks(
    folder: Path, model: tokenizers.Tokenizer, start: tuple[int, ...], end: _Found | None
) -> Remarks:
    begins = f"begins with {_words(model, start)}" if start else "begins with no mark"
    if end is not None:
        ends = f"ends with {_words(model, (end.id,))}, named in {end.source}"
        return Remarks(notes=(f"each document {begins} and {ends} ({folder})",))
    if start:
        return Remarks(notes=(f"each document {begins} and ends with no mark ({folder})",))
    nothing = (
        f"{folder} names no end-of-sequence token, so nothing separates a document from the next; "
        f'name one of its tokens in {folder / _CONFIG}: {{"eos_token": "..."}}'
    )
    return Remarks(warnings=(nothing,))


def _words(model: tokenizers.Tokenizer, ids: tuple[int, ...]) -> str:
    """`<s> (1)`."""
    return " ".join(f"{model.id_to_token(one)} ({one})" for one in ids)
