"""The small files beside a model's weights that go into every checkpoint: tokenizer, chat template,
generation settings, licence.

They come from the job's model folder and its tokenizer at first, and from a checkpoint of the run
later, when those folders may be gone. Never among them: weights, code, and what other programs keep
of their training. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from dougong.models.folder import CONFIG, read_small_file

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
_BESIDE_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_TEMPLATES = "additional_chat_templates"


def of_folder(folder: Path) -> dict[str, bytes]:
    """A Hugging Face folder's small files, by their names in it.

    Raises `ModelError` for a file that is not there in truth: a git-lfs pointer, or JSON that is
    cut short.
    """
    return {name: _read(folder / name) for name in _names(folder)}


def left_out(folder: Path) -> list[str]:
    """The files that would be among these and are too large."""
    return [
        place.name for place in folder.iterdir() if is_companion(place.name) and _too_large(place)
    ]


def of_tokenizer(path: Path) -> dict[str, bytes]:
    """A tokenizer's files: of a folder, or a tokenizer.json with what lies beside it for it."""
    if path.is_dir():
        names = [name for name in _names(path) if _is_of_tokenizer(name)]
        return {name: _read(path / name) for name in names}
    # Under this name transformers looks for it. Of a folder that may hold anything, only what is
    # known to belong to it goes along.
    files = {"tokenizer.json": _read(path)}
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
    changes = {key: value for key, value in config.items() if key.endswith("_token_id")}
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
    """A file's bytes; JSON without the entry that says where a family's own code lies."""
    data = read_small_file(path)
    if path.suffix == ".json":
        value = json.loads(data)
        if isinstance(value, dict) and "auto_map" in value:
            del value["auto_map"]
            return _as_json(value)
    return data


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
