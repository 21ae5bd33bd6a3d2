"""Hugging Face datasets as text."""

import sys
from pathlib import Path

import datasets
import pytest
from dougong.data.dataset import dataset_rows
from dougong.errors import DataError
from tests.data.texts import tokens_of


def test_a_saved_dataset(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"id": ["x", "y", "z"], "text": ["one", "", "two"]})
    rows.save_to_disk(str(tmp_path / "set"))
    assert tokens_of(dataset_rows(str(tmp_path / "set")), tmp_path / "cache") == b"one\0two\0"


def test_a_saved_dataset_of_splits(tmp_path: Path) -> None:
    splits = {name: datasets.Dataset.from_dict({"body": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "set"))
    assert tokens_of(dataset_rows(str(tmp_path / "set")), tmp_path / "cache") == b"train\0"


def test_a_folder_of_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "part.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert tokens_of(dataset_rows(str(tmp_path / "set")), tmp_path / "cache") == b"one\0two\0"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": ["x"], "b": ["y"]}, r"no column `text`, and 2 columns of strings \['a', 'b'\]"),
        ({"n": [1]}, "and 0 columns of strings"),
    ],
)
def test_a_dataset_without_a_clear_text(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match=message):
        dataset_rows(str(tmp_path / "set"))


def test_a_dataset_without_train(tmp_path: Path) -> None:
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": ["x"]})}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match=r"no split `train` but \['test'\]"):
        dataset_rows(str(tmp_path / "set"))


def test_without_the_datasets_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'dougong\[data\]'"):
        dataset_rows(str(tmp_path))
