"""The files of a Hugging Face dataset on this machine: which, how they are read, and what is wrong
with them. Imports no torch."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dougong.data.documents.text import content_digest
from dougong.errors import DataError
from dougong.job.data_files import (
    BUILDERS,
    builder_of,
    ending_by_content,
    is_pattern,
    wrong_ending,
)

_PARQUET = b"PAR1"
_LINES = (".jsonl", ".ndjson")


def find(name: str) -> list[Path]:
    """The files that `data.dataset` names, sorted: one, those of a glob or of a folder; empty for a
    name on the hub. Raises DataError where they are of several kinds or of none that is known."""
    path = Path(name).expanduser()
    if path.is_dir():
        return _find_inside(name, path)
    if path.is_file():
        files = [path]
    elif is_pattern(name):
        matches = sorted(glob.glob(str(path), recursive=True))
        files = [Path(one) for one in matches if Path(one).is_file()]
    else:
        return []
    _check_kinds(name, files)
    return files


def _find_inside(name: str, folder: Path) -> list[Path]:
    files = []
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not _is_hidden(file, folder):
            files.append(file)
    if not files:
        raise DataError(f"data.dataset: {name}: the folder holds no file; check the path")
    if not any(builder_of(file.name) for file in files) and _holds_plain_text(files):
        # The library would take each line for a document.
        raise DataError(
            f"data.dataset: {name}: the folder holds plain text; name its files in data.text, "
            f"such as {name.rstrip('/')}/**/*.txt"
        )
    return files


def _holds_plain_text(files: Sequence[Path]) -> bool:
    return any(file.suffix == ".txt" for file in files)


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _check_kinds(name: str, files: Sequence[Path]) -> None:
    if not files:
        raise DataError(f"data.dataset: {name}: no file matches it as a glob; check the path")
    kinds = {builder_of(file.name) for file in files}
    if kinds == {None}:
        if (ending := ending_by_content(files[0])) is not None:
            raise DataError(f"data.dataset: {files[0]}: {wrong_ending(ending)}")
        raise DataError(
            f"data.dataset: {name}: {files[0].name} is no file of rows ({', '.join(BUILDERS)}); "
            "plain text goes into data.text, token ids into data.tokens"
        )
    if len(kinds) > 1:
        raise DataError(
            f"data.dataset: {name}: files of several kinds match; name those of one kind"
        )


def arguments(name: str, files: Sequence[Path]) -> dict[str, Any]:
    """What `datasets.load_dataset` is called with: files by their kind, a folder or a name on the
    hub as it is."""
    import datasets

    if not files:
        return {"path": name, "split": "train"}
    # The library knows a file by its time and size. What it has made of it is kept by content, so
    # that it is made anew when the content is another.
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "dougong" / content_digest(files)
    path = Path(name).expanduser()
    if path.is_dir():
        return {"path": str(path), "split": "train", "cache_dir": str(cache)}
    builder = builder_of(files[0].name)
    names = [str(file) for file in files]
    return {"path": builder, "data_files": names, "split": "train", "cache_dir": str(cache)}


def failure(error: BaseException, files: Sequence[Path]) -> str:
    """Why a dataset could not be loaded: file and line where they can be told, and the innermost
    cause."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    told = " ".join(str(cause).split()) or "there is nothing in it"
    text = f"cannot be loaded ({type(cause).__name__}: {told})"
    place = first_fault(files)
    if place is not None:
        return f"{text}; {place}"
    if files:
        return f"{text}; look at {_few(files)}"
    return f"{text}; check the name, the split `train`, and the network"


def _few(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"the {len(files)} files from {files[0]} on"


def first_other_value(files: Sequence[Path], column: str) -> str | None:
    """`FILE:LINE: what it holds` of the first row of JSON whose column is no string."""
    for place, row in _rows(files):
        if isinstance(row, dict) and not isinstance(row.get(column), str | None):
            return f"{place}: holds {json.dumps(row[column])[:60]}"
    return None


def first_fault(files: Sequence[Path]) -> str | None:
    """`FILE:LINE: what is wrong` of the first row that cannot be read; else of the first that has
    other keys than the first row. None where no fault is found."""
    for file in files:
        if file.suffix == ".parquet" and (problem := _bad_parquet(file)) is not None:
            return problem
    other: str | None = None
    keys: list[str] | None = None
    for place, row in _rows(files):
        if isinstance(row, str):
            return f"{place}: {row}"
        keys = keys or sorted(row)
        if other is None and sorted(row) != keys:
            other = f"{place}: has the keys {sorted(row)}, where the first row has {keys}"
    return other


def _rows(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Of files of JSON lines: the place of each row, and the row or what is wrong with it."""
    for file in files:
        if file.suffix in _LINES:
            yield from _rows_of(file)


def _rows_of(file: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{file}:{number}", _read_row(line)


def _read_row(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8-sig"))
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no character; mend or remove the line"
    except ValueError as error:
        return f"{error}; mend or remove the line"
    if not isinstance(row, dict):
        return 'holds no JSON object; a row is one, such as {"text": "..."}'
    return row


def _bad_parquet(file: Path) -> str | None:
    with file.open("rb") as table:
        first = table.read(len(_PARQUET))
        table.seek(-min(len(_PARQUET), table.seek(0, os.SEEK_END)), os.SEEK_END)
        last = table.read()
    if first == last == _PARQUET:
        return None
    return f"{file}: is not a whole parquet table ({first!r} ... {last!r}); copy it again"
