"""What a run has read from outside its job file, as it was when the run began.

It is looked at once and kept in the run's directory and in every checkpoint. Later generations
build from it: a folder that is changed, or gone, makes no other run of it. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOOKED_FOR = "auto"
"""What stands for a form of attention before the devices were asked."""
_SAMPLE_BYTES = 1 << 14
_MOST_SAMPLES = 64


@dataclass(frozen=True)
class RunSources:
    """`config`: the model's configuration with every key, and `config_class` to read it by; `data`:
    digest of the tokens and of how they are cut.

    Files by path, each with the digest of `file_digest`: `weights` of `model.path`; `tokenizer`;
    `side_files`, which say how the data's files are read; `data_files` themselves, where they are
    files of this machine and not too many to be named. `attention`: the form that the devices were
    asked for (`model.attention: auto`), for all of the run; empty where nobody asked.
    """

    config: dict[str, Any]
    config_class: str
    data: str
    weights: dict[str, str] = field(default_factory=dict)
    tokenizer: dict[str, str] = field(default_factory=dict)
    side_files: dict[str, str] = field(default_factory=dict)
    data_files: dict[str, str] = field(default_factory=dict)
    attention: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether nothing of it is still looked for on the devices."""
        return self.attention != LOOKED_FOR


def digests_of(files: list[Path]) -> dict[str, str]:
    """Files with their digests; one that is not there has none."""
    found = {}
    for file in files:
        digest = file_digest(file)
        if digest is not None:
            found[str(file)] = digest
    return found


def changed_files(files: Mapping[str, str]) -> list[str]:
    """Those that are not as they were, or are gone."""
    return [name for name, digest in files.items() if file_digest(Path(name)) != digest]


def file_digest(path: Path) -> str | None:
    """Names a file's content: its size and all of it, of a large file 64 samples, the first at its
    beginning, where a header lies. None: it cannot be read."""
    try:
        size = path.stat().st_size
        total = hashlib.blake2b(str(size).encode(), digest_size=16)
        with path.open("rb") as file:
            for start in _sampled(size):
                file.seek(start)
                total.update(file.read(_SAMPLE_BYTES))
    except OSError:
        return None
    return total.hexdigest()


def _sampled(size: int) -> list[int]:
    if size <= _SAMPLE_BYTES * _MOST_SAMPLES:
        return list(range(0, size, _SAMPLE_BYTES))
    last = size - _SAMPLE_BYTES
    return [last * number // (_MOST_SAMPLES - 1) for number in range(_MOST_SAMPLES)]
