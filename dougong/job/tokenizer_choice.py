"""Which tokenizer a job means: its own word, else the model folder's, else bytes. Imports no
torch."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dougong.job.parts.data import Data
from dougong.job.schema import Job

BYTES = "bytes"
NUM_BYTES = 256
"""Ids of the tokenizer `bytes`."""

_SETTINGS = "tokenizer_config.json"
# Any of these in a folder means that transformers finds a tokenizer there, or says why not.
_TOKENIZER_FILES = (
    "tokenizer.json",
    _SETTINGS,
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
)


def ready_tokens(data: Data) -> str | None:
    """The key of a source that holds token ids, not text: `mixture` where all of its sources do."""
    kinds = {source.source for _, source in data.sources}
    if not kinds <= {"tokens", "megatron"}:
        return None
    return "mixture" if data.mixture else data.source


def tokenizer_of(job: Job) -> str | None:
    """`bytes`, or the path of a tokenizer; None where the data is tokens already."""
    if ready_tokens(job.data) is not None:
        return None
    return job.data.tokenizer or default_tokenizer(job.model.path)


def default_tokenizer(model_path: str | None) -> str:
    """The tokenizer of a job that names none: that of its model's folder, if it has one."""
    if model_path is not None and holds_tokenizer(model_path):
        return model_path
    return BYTES


def holds_tokenizer(folder: str) -> bool:
    """Whether a folder has any file of a tokenizer."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in _TOKENIZER_FILES)


def needs_own_code(folder: str) -> bool:
    """Whether a folder's tokenizer is nothing but a name of code (`auto_map`): it has no file from
    which transformers could make one by itself."""
    others = [name for name in _TOKENIZER_FILES if name != _SETTINGS]
    has_other = any(os.path.isfile(os.path.join(folder, name)) for name in others)
    return names_own_code(folder) and not has_other


def names_own_code(folder: str) -> bool:
    """Whether a folder without a tokenizer.json names code that makes its tokenizer. transformers
    may know that class, and need none of it."""
    if os.path.isfile(os.path.join(folder, "tokenizer.json")):
        return False
    try:
        settings = json.loads((Path(folder) / _SETTINGS).read_bytes())
    except (OSError, ValueError):
        return False  # whoever reads it says what is wrong
    return isinstance(settings, dict) and "AutoTokenizer" in (settings.get("auto_map") or {})
