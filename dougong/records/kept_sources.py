"""What a run keeps of what it had read when it began: `sources.json`, and a copy of its tokenizer.

RUN/sources.json  tokenizer/
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dougong.control.run_sources import RunSources
from dougong.errors import StorageError
from dougong.records.damage import damaged, first_fault, read_text
from dougong.records.directory import RunDir
from dougong.records.files import ROOM, replace_file

_SOURCES: TypeAdapter[RunSources] = TypeAdapter(RunSources)
_ADVICE = "delete the file: the newest checkpoint holds the same"


def keep_sources(run_dir: RunDir, sources: RunSources) -> None:
    """Store what the run began with, once: what stands there already stays."""
    file = run_dir.sources_file
    if file.exists():
        return
    try:
        _copy(sources.tokenizer, run_dir.own_tokenizer)
        replace_file(file, _SOURCES.dump_json(sources).decode() + "\n", durable=True)
    except OSError as error:
        raise StorageError(
            f"{file}: what the run begins with cannot be kept: {error.strerror}; {ROOM}"
        ) from error


def read_sources(run_dir: RunDir) -> RunSources | None:
    """sources.json, or None when the run ended before it was written."""
    file = run_dir.sources_file
    text = read_text(file)
    if text is None:
        return None
    try:
        return _SOURCES.validate_json(text)
    except ValidationError as error:
        raise damaged(file, first_fault(error), _ADVICE) from error


def own_tokenizer(run_dir: RunDir, named: str, sources: RunSources | None) -> str | None:
    """The run's copy of the tokenizer, which the job has `named`; None where there is none to
    copy."""
    if sources is None or not sources.tokenizer:
        return None
    folder, name = run_dir.own_tokenizer, Path(named)
    is_file = str(name.expanduser()) in sources.tokenizer
    return str(folder / name.name if is_file else folder)


def _copy(files: Iterable[str], folder: Path) -> None:
    for name in files:
        folder.mkdir(exist_ok=True)
        shutil.copyfile(name, folder / Path(name).name)
