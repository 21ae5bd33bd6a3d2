"""Text from Hugging Face datasets. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dougong.data.text import Corpus, Document
from dougong.errors import DataError

if TYPE_CHECKING:
    import datasets


def dataset_rows(name: str) -> Corpus:
    """A Hugging Face dataset: a folder of `save_to_disk`, a folder of data files, or a name on the
    hub; split `train`.

    The text is column `text`, or the only column of strings. Raises DataError if the library, the
    dataset or the column is missing.
    """
    rows = _train_split(name, _load(name))
    column = _text_column(name, rows)
    # The library's own name for the content, which changes with whatever is done to the rows.
    key = f"dataset {rows._fingerprint} {column}"
    return Corpus(name, key, partial(_documents, name, rows, column))


def _load(name: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"data.dataset: {name}: needs the package `datasets`; pip install 'dougong[data]'"
        ) from error
    folder = Path(name).expanduser()
    try:
        if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder) if folder.is_dir() else name, split="train")
    except Exception as error:  # every builder has errors of its own
        raise DataError(
            f"data.dataset: {name}: cannot be loaded ({type(error).__name__}: {error}); check the "
            "name, the split `train`, and the network"
        ) from error


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


def _text_column(name: str, rows: datasets.Dataset) -> str:
    columns = []
    for column, kind in rows.features.items():
        if getattr(kind, "dtype", None) in ("string", "large_string"):
            columns.append(str(column))
    if "text" in columns:
        return "text"
    if len(columns) != 1:
        raise DataError(
            f"data.dataset: {name}: has no column `text`, and {len(columns)} columns of strings "
            f"{columns}; rename the one to train on: dataset.rename_column(OLD, 'text')"
        )
    return columns[0]


def _documents(name: str, rows: datasets.Dataset, column: str) -> Iterator[Document]:
    for number, value in enumerate(rows.with_format(None).select_columns([column])):
        text = str(value[column] or "")
        yield Document(f"{name}: row {number}", partial(_pieces, text))


def _pieces(text: str) -> Iterator[bytes]:
    if text:
        yield text.encode()
