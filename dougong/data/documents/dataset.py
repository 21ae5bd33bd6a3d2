"""Text from Hugging Face datasets. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dougong.data.documents import dataset_files
from dougong.data.documents.text import BLOCK_BYTES, Block, Corpus, Document, content_digest
from dougong.errors import DataError
from dougong.job.data_files import TEXT_COLUMN
from dougong.remarks import Remarks

if TYPE_CHECKING:
    import datasets

_STRINGS = ("string", "large_string")
# What other programs call columns that are something else than text.
_KNOWN = {
    "messages": "chats, which data.chat learns from",
    "conversations": "chats, which data.chat learns from as messages with role and content",
    "input_ids": "token ids: write them into a file for data.tokens",
}
_CHATS = ("messages", "conversations")


def dataset_rows(name: str, column: str | None = None) -> Corpus:
    """A Hugging Face dataset: a folder of `save_to_disk`, a folder of data files, such a file, a
    glob of them, or a name on the hub; split `train`.

    The text is column `text`, or the named one. Raises DataError if the library, the dataset or the
    column is missing, or cannot be read.
    """
    files = dataset_files.find(name)
    rows = _train_split(name, _load(name, files))
    chosen = _text_column(name, rows, column or TEXT_COLUMN, files)
    # A folder may be rewritten in place: its files' bytes name it. Of the hub, the library's own
    # name for the content, which changes with whatever is done to the rows.
    key = partial(_key, rows, chosen, files)
    documents = partial(_documents, name, rows, chosen, files)
    return Corpus(name, key, documents, _remarks(name, rows, chosen))


def _key(rows: datasets.Dataset, column: str, files: list[Path]) -> str:
    content = content_digest(files) if files else rows._fingerprint
    return f"dataset {content} {column}"


def _load(name: str, files: list[Path]) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"data.dataset: {name}: needs the package `datasets`; pip install 'dougong[data]'"
        ) from error
    folder = Path(name).expanduser()
    if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
        load = partial(datasets.load_from_disk, str(folder))
    else:
        load = partial(datasets.load_dataset, **dataset_files.arguments(name, files))
    try:
        return load()
    except Exception as error:  # every builder has errors of its own
        raise DataError(f"data.dataset: {name}: {dataset_files.failure(error, files)}") from error


def _train_split(name: str, loaded: Any) -> datasets.Dataset:
    import datasets

    rows = loaded
    if isinstance(loaded, dict) and "train" in loaded:
        rows = loaded["train"]
    if not isinstance(rows, datasets.Dataset):
        raise DataError(
            f"data.dataset: {name}: has no split `train` but {sorted(rows)}; "
            "save the one to train on by itself"
        )
    return rows


def _text_column(name: str, rows: datasets.Dataset, column: str, files: list[Path]) -> str:
    kind = rows.features.get(column)
    if getattr(kind, "dtype", None) in _STRINGS:
        return column
    if kind is None:
        found = ", ".join(f"`{one}`" for one in rows.features) or "none"
        fault = f"has no column `{column}` but {found}"
    else:
        place = dataset_files.first_other_value(files, column)
        seen = f" ({place})" if place is not None else ""
        fault = f"column `{column}` holds {kind}, not only strings{seen}"
    raise DataError(f"data.dataset: {name}: {fault}; {_advice(rows, column)}")


def _remarks(name: str, rows: datasets.Dataset, column: str) -> Remarks:
    """What is missing in the column, where the table itself knows it."""
    if rows._indices is not None:
        return Remarks()  # The table holds other rows too.
    missing = rows.data.column(column).null_count
    if missing == 0:
        return Remarks()
    many = f"{missing} of {len(rows)} rows hold null in column `{column}` and are left out"
    return Remarks(warnings=(f"data.dataset: {name}: {many}",))


def _advice(rows: datasets.Dataset, asked: str) -> str:
    """What to do about a set without the column: its columns of strings, else what those it has
    hold."""
    parts = []
    for one in rows.features:
        if one in _KNOWN:
            parts.append(f"`{one}` holds {_KNOWN[one]}")
        if one in _CHATS:
            parts.append(
                "save them as lines of JSON, dataset.to_json('FILE.jsonl'), and name it there"
            )
    strings = []
    for column, kind in rows.features.items():
        if getattr(kind, "dtype", None) in _STRINGS and column != asked:
            strings.append(f"`{column}`")
    if strings:
        parts.append(f"name one of its columns of strings in data.column: {', '.join(strings)}")
    elif not parts:
        parts.append("it has no other column of strings: make one")
    return "; ".join(parts)


def _documents(
    name: str, rows: datasets.Dataset, column: str, files: list[Path]
) -> Iterator[Document]:
    number = 0
    try:
        for value in rows.with_format(None).select_columns([column]):
            # A row of null is an empty document.
            text = str(value[column] or "")
            yield Document(f"{name}: row {number}", partial(_blocks, text))
            number += 1
    except UnicodeDecodeError as error:
        fault = dataset_files.first_fault(files)
        place = fault or f"row {number} or one of the next is not UTF-8; convert it"
        raise DataError(f"data.dataset: {name}: {place}") from error


def _blocks(text: str) -> Iterator[Block]:
    start = 0
    for first in range(0, len(text), BLOCK_BYTES):
        block = text[first : first + BLOCK_BYTES].encode()
        yield start, block
        start += len(block)
