"""The files that a dataset's name means, and the first fault among them."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.data.documents.dataset_files import find, first_fault
from dougong.errors import DataError


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_a_file_a_glob_and_a_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", a_jsonl="{}", b_jsonl="{}", README_md="")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "c.jsonl").write_text("{}")
    assert find(str(folder / "a.jsonl")) == [folder / "a.jsonl"]
    assert find(f"{folder}/*.jsonl") == [folder / "a.jsonl", folder / "b.jsonl"]
    assert [file.name for file in find(str(folder))] == ["README.md", "a.jsonl", "b.jsonl"]
    assert find("some/name") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("*.parquet", "no file matches it as a glob"),
        ("mixed/*", "files of several kinds match"),
        ("texts/a.txt", "a.txt is no file of rows .* plain text goes into data.text"),
        ("wrong/pq.txt", "pq.txt: holds rows, but its ending is another: rename it to .parquet"),
        ("texts", r"the folder holds plain text; name its files in data.text, such as .*/texts/\*\*/\*\.txt"),
        ("empty", "the folder holds no file"),
    ],
)
def test_names_that_mean_no_rows(tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path / "mixed", a_jsonl="{}", b_csv="x")
    write(tmp_path / "texts", a_txt="words")
    write(tmp_path / "empty")
    write(tmp_path / "wrong", pq_txt="PAR1")
    with pytest.raises(DataError, match=f"data.dataset: .*{message}"):
        find(str(tmp_path / name))


def test_the_first_row_that_cannot_be_read_comes_before_one_of_other_keys(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", a_jsonl='{"a": 1}\n{"b": 1}\n', b_jsonl='{"a": 1}\n[1]\n')
    files = find(str(folder))
    assert first_fault(files[:1]) == f"{folder}/a.jsonl:2: has the keys ['b'], where the first row has ['a']"
    assert (first_fault(files) or "").startswith(f"{folder}/b.jsonl:2: holds no JSON object")
    assert first_fault([]) is None
