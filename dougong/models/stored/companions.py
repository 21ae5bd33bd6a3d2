"""The small files beside a model's weights that go into every checkpoint: tokenizer, chat template,
generation settings, licence.

They come from the job's model folder and its tokenizer at first, and from a checkpoint of the run
later, when those folders may be gone. Never among them: weights, code, and what other programs keep
of their training. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from dougong.job.rule import flat, without_code
from dougong.models.stored.folder import (
    ADAPTER,
    CONFIG,
    HOW_TO_MERGE,
    INDEX,
    few,
    own_code_words,
    read_config,
    read_small_file,
    weight_files,
)

MOST_BYTES = 64 << 20
GENERATION = "generation_config.json"

_KINDS = (
    "*.json", "*.jinja", "*.model", "*.md", "*.tiktoken", "vocab*", "merges.txt",
    "LICEN[CS]E*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
_NEVER = (
    CONFIG, "*.index.json", ".*", "*.py", "*.safetensors", "*.bin",
    "trainer_state.json", "*_results.json", "optimizer*", "scheduler*", "adapter_*",
    "quantize_config.json",
)  # fmt: skip
_OF_TOKENIZER = (
    "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "added_tokens.json", "*.jinja",
    "chat_template*", "*.model", "*.tiktoken", "tekken.json",
)  # fmt: skip
_OF_IMAGES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Taken from a tokenizer's folder where it has them, else from the model's."""
_VOCABULARIES = ("tokenizer.json", "vocab*", "added_tokens.json", "tekken.json")
_BESIDE_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_TEMPLATES = "additional_chat_templates"


def of_folder(folder: Path, but: Collection[str] = ()) -> dict[str, bytes]:
    """A Hugging Face folder's small files, by their names in it; those of `but` are not read.

    Raises `ModelError` for a file that is not there in truth: a git-lfs pointer, or JSON that is
    cut short.
    """
    return {name: _read(folder / name) for name in _names(folder) if name not in but}


def left_out(folder: Path) -> list[str]:
    """The files that would be among these and are too large."""
    return [
        place.name for place in folder.iterdir() if is_companion(place.name) and _too_large(place)
    ]


def without_their_code(folder: Path) -> dict[str, tuple[str, ...]]:
    """Keys that name code and go into no checkpoint, by the name of their file."""
    names = [name for name in sorted(_names(folder)) if _may_name_code(name)]
    found = {name: _settings(folder / name)[1] for name in names}
    return {name: keys for name, keys in found.items() if keys}


def unused(folder: Path) -> tuple[str, ...]:
    """What lies in a model's folder beside the model and these: neither read nor copied. A folder's
    name ends with a slash; hidden ones do not count."""
    used = {CONFIG, INDEX, _TEMPLATES, *weight_files(folder)}
    places = [place for place in folder.iterdir() if place.name not in used]
    names = [f"{place.name}/" if place.is_dir() else place.name for place in places]
    return tuple(name for name in sorted(names) if not (name.startswith(".") or is_companion(name)))


def beside_words(folder: Path) -> Iterator[str]:
    """Each thing once: code, adapters, files that nothing reads, settings that go into no
    checkpoint. Raises `ModelError` for a file that is not there in truth."""
    code = own_code_words(read_config(folder))
    if code:
        yield code
    adapters = sorted({*folder.glob("adapter_*"), *folder.glob(f"*/{ADAPTER}")})
    if adapters:
        yield _adapter_words(folder, adapters)
    told = {place.relative_to(folder).parts[0] for place in adapters}
    others = [name for name in unused(folder) if name.rstrip("/") not in told]
    if others:
        verb = "is" if len(others) == 1 else "are"
        yield f"{few(others)} {verb} neither read nor written into checkpoints"
    for name, keys in without_their_code(folder).items():
        yield f"{name} goes into checkpoints without {', '.join(keys)}: no code is named there"
    for name in left_out(folder):
        limit = MOST_BYTES >> 20
        yield f"{name} does not go into checkpoints: it has more than {limit} MiB"


def _adapter_words(folder: Path, places: list[Path]) -> str:
    names = few([str(place.relative_to(folder)) for place in places])
    configs = [place for place in places if place.name == ADAPTER]
    kind, base = _kind_of(configs[0]) if configs else ("", "")
    what = f"{kind or 'an'} adapter" + (f" of {base}" if base else "")
    has_weights = any(place.suffix in (".safetensors", ".bin") for place in places)
    absent = "" if has_weights else ", whose weights are not beside it,"
    return (
        f"{names}: {what}{absent} is not used: neither merged into the weights, nor trained, nor "
        f"written into checkpoints; where it is meant, merge it first {HOW_TO_MERGE}"
    )


def _kind_of(config: Path) -> tuple[str, str]:
    """`a LORA`, and the model that it changes; empty where the file does not say so."""
    try:
        found: Any = json.loads(config.read_bytes())
    except (OSError, ValueError):
        return "", ""
    values = found if isinstance(found, dict) else {}
    kind, base = values.get("peft_type"), values.get("base_model_name_or_path")
    return f"a {kind}" if isinstance(kind, str) else "", base if isinstance(base, str) else ""


def of_tokenizer(path: Path) -> dict[str, bytes]:
    """A tokenizer's files: of a folder, or a tokenizer.json with what lies beside it for it."""
    if path.is_dir():
        names = [name for name in _names(path) if _is_of_tokenizer(name) or name in _OF_IMAGES]
        return {name: _read(path / name) for name in names}
    # Under this name transformers looks for it. Of a folder that may hold anything, only what is
    # known to belong to it goes along.
    files = {"tokenizer.json": read_small_file(path)}
    for name in _BESIDE_TOKENIZER:
        if (path.parent / name).is_file():
            files[name] = _read(path.parent / name)
    return files


def of_job(
    base: Path | None, tokenizer: Path | None, config: Mapping[str, Any]
) -> dict[str, bytes]:
    """What a run begins with. `base`: its model folder; `tokenizer`: what its data is read with,
    which takes the place of the folder's; `config`: the job's changes of the configuration, whose
    special tokens are also those of generation."""
    files = {} if base is None else of_folder(base)
    if tokenizer is not None and tokenizer != base:
        files = {name: data for name, data in files.items() if not _is_of_tokenizer(name)}
        files |= of_tokenizer(tokenizer)
    changes = {key: value for key, value in flat(config).items() if key.endswith("_token_id")}
    if changes and GENERATION in files:
        files[GENERATION] = _as_json(json.loads(files[GENERATION]) | changes)
    return files


def _names(folder: Path) -> Iterator[str]:
    for place in (*folder.iterdir(), *folder.glob(f"{_TEMPLATES}/*.jinja")):
        name = place.relative_to(folder).as_posix()
        if place.is_file() and is_companion(name) and not _too_large(place):
            yield name


def is_companion(name: str) -> bool:
    """Whether a file of that name, in a model's folder, is one of these."""
    name = name.removeprefix(f"{_TEMPLATES}/")
    return _matches(name, _KINDS) and not _matches(name, _NEVER)


def _is_of_tokenizer(name: str) -> bool:
    return _matches(name, _OF_TOKENIZER)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _too_large(path: Path) -> bool:
    return path.stat().st_size > MOST_BYTES


def _read(path: Path) -> bytes:
    """A file's bytes; settings without what names code."""
    return _settings(path)[0]


def _settings(path: Path) -> tuple[bytes, tuple[str, ...]]:
    """A file's bytes without what names code, and the keys that were left out."""
    data = read_small_file(path)
    if not _may_name_code(path.name):
        return data, ()
    kept, left = without_code(json.loads(data))
    return (_as_json(kept) if left else data), left


def _may_name_code(name: str) -> bool:
    # A vocabulary's keys are words, whatever they say.
    return name.endswith(".json") and not _matches(name, _VOCABULARIES)


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
