"""Hugging Face datasets as text."""

import os
import sys
from pathlib import Path

import datasets
import pytest
from dougong.data.documents.dataset import dataset_rows
from dougong.data.documents.text import BLOCK_BYTES
from dougong.errors import DataError
from tests.data.texts import tokens_of


def test_a_saved_dataset(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"id": ["x", "y", "z"], "text": ["one", "", "two"]})
    rows.save_to_disk(str(tmp_path / "set"))
    assert tokens_of(dataset_rows(str(tmp_path / "set")), tmp_path / "cache") == b"one\0two\0"


def test_a_saved_dataset_of_splits(tmp_path: Path) -> None:
    splits = {name: datasets.Dataset.from_dict({"body": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "set"))
    assert tokens_of(dataset_rows(str(tmp_path / "set"), "body"), tmp_path / "cache") == b"train\0"


def test_a_folder_of_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "part.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert tokens_of(dataset_rows(str(tmp_path / "set")), tmp_path / "cache") == b"one\0two\0"


@pytest.mark.parametrize("name", ["part.jsonl", "*.jsonl", "table.parquet", "table.csv"])
def test_files_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    (tmp_path / "part.jsonl").write_text('{"text": "one"}\n{"text": null}\n{"text": "two"}\n')
    rows = datasets.Dataset.from_dict({"text": ["one", "", "two"]})
    rows.to_parquet(tmp_path / "table.parquet")
    rows.to_csv(tmp_path / "table.csv")
    assert tokens_of(dataset_rows(str(tmp_path / name)), tmp_path / "cache") == b"one\0two\0"


def test_rows_rewritten_in_the_same_instant_are_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    file = tmp_path / "set" / "part.jsonl"
    file.parent.mkdir()
    for word in ("one", "two"):
        file.write_text(f'{{"text": "{word}"}}\n')
        os.utime(file, ns=(10**18, 10**18))
        for name in (file, file.parent):
            assert tokens_of(dataset_rows(str(name)), tmp_path / "cache") == f"{word}\0".encode()


def test_a_saved_dataset_changed_in_place_has_another_key(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    datasets.Dataset.from_dict({"text": ["one"]}).save_to_disk(str(folder))
    before = dataset_rows(str(folder)).key()
    (table,) = folder.glob("*.arrow")
    table.write_bytes(table.read_bytes().replace(b"one", b"two"))
    assert before != dataset_rows(str(folder)).key()


CHATS = [[{"role": "user", "content": "hi"}]]


@pytest.mark.parametrize(
    ("columns", "asked", "message"),
    [
        ({"a": ["x"], "b": ["y"]}, None, "no column `text` but `a`, `b`; name one .* in data.column: `a`, `b`"),
        ({"body": ["x"]}, None, "no column `text` but `body`; name one .* in data.column: `body`"),
        ({"text": ["x"], "body": ["y"]}, "bdy", "no column `bdy` but `text`, `body`; name one .*: `text`, `body`"),
        ({"text": [1]}, None, r"column `text` holds Value\('int64'\), not only strings; .* make one"),
        ({"n": [1]}, None, "no column `text` but `n`; it has no other column of strings"),
        ({"messages": CHATS, "src": ["w"]}, None, "`messages` holds chats.*name it there.*data.column: `src`"),
        ({"conversations": CHATS}, None, "`conversations` holds chats.*role and content.*to_json"),
        ({"input_ids": [[1, 2]], "source": ["w"]}, None, "`input_ids` holds token ids: write .* data.tokens"),
    ],
)
def test_no_column_is_guessed(tmp_path: Path, columns: dict[str, list[object]], asked: str, message: str) -> None:
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match=message):
        dataset_rows(str(tmp_path / "set"), asked)


def test_a_named_column(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["x"], "body": ["y"]}).save_to_disk(str(tmp_path / "set"))
    assert tokens_of(dataset_rows(str(tmp_path / "set"), "body"), tmp_path / "cache") == b"y\0"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"text": "a"}\n\n{"text": oops}\n',
            r"ArrowInvalid: JSON parse.*a\.jsonl:3: Expecting value",
        ),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', r"surrogate.*a\.jsonl:2: holds half of a surrogate pair"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 5}\n', r"not only strings \(.*a\.jsonl:2: holds 5\)"),
        ("a.jsonl", b"", r"there is nothing in it\); look at .*a\.jsonl"),
        ("a.csv", b"text,b\na,1\nb,2,3\n", r"ParserError: .*Expected 2 fields in line 3.*look at .*a\.csv"),
        ("a.parquet", b"PAR1 and no more", r"a\.parquet: is not a whole parquet table"),
    ],
)
def test_what_is_wrong_with_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, message: str
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        dataset_rows(str(tmp_path / name))


def test_rows_that_are_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "a\xe9"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: 'utf-8' codec can't decode byte 0xe9"):
        tokens_of(dataset_rows(str(tmp_path / "a.jsonl")), tmp_path / "cache")


def test_rows_without_a_text_are_told(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["x", None, "", None]}).save_to_disk(str(tmp_path / "set"))
    found = dataset_rows(str(tmp_path / "set"))
    (warning,) = found.remarks.warnings
    assert warning.endswith("2 of 4 rows hold null in column `text` and are left out")
    assert tokens_of(found, tmp_path / "cache") == b"x\0"


def test_a_long_row_comes_in_blocks(tmp_path: Path) -> None:
    text = "斗拱 " * BLOCK_BYTES
    datasets.Dataset.from_dict({"text": [text]}).save_to_disk(str(tmp_path / "set"))
    (document,) = dataset_rows(str(tmp_path / "set")).documents()
    blocks = list(document.blocks())
    assert len(blocks) == 3 and b"".join(block for _, block in blocks).decode() == text
    assert [start for start, _ in blocks][1] == len(blocks[0][1])


def test_a_dataset_without_train(tmp_path: Path) -> None:
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": ["x"]})}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match=r"no split `train` but \['test'\]"):
        dataset_rows(str(tmp_path / "set"))


def test_without_the_datasets_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'dougong\[data\]'"):
        dataset_rows("some/name")
