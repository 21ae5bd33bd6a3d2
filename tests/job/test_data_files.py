"""What a name says about files by itself."""

from pathlib import Path

import pytest
from dougong.job.data_files import (
    LIBRARY,
    builder_of,
    ending_by_content,
    ending_of_json,
    is_pattern,
    names_files,
    standard_library,
)


@pytest.mark.parametrize(
    ("name", "builder"),
    [("a.jsonl", "json"), ("b/a.json.gz", "json"), ("a.parquet", "parquet"), ("a.tsv", "csv"), ("a.txt", None),
     ("some/name", None), ("a.gz", None)],
)  # fmt: skip
def test_files_of_rows(name: str, builder: str | None) -> None:
    assert builder_of(name) == builder
    assert names_files(name) is (builder is not None)


def test_a_pattern_names_files() -> None:
    assert is_pattern("data/part-*.parquet") and names_files("data/*") and not is_pattern("some/name")


def test_rows_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"PAR1 and more")
    assert ending_by_content(tmp_path / "a.txt") == ".parquet"
    assert ending_of_json(b'\xef\xbb\xbf{"text": "a"}\n{') == ".jsonl" and ending_of_json(b'[{"a": 1}]') == ".json"
    assert ending_of_json(b"{}\n") is None and ending_of_json(b'{"a": "b"}\nwords') is None


def test_the_standard_library_is_sorted_sources_without_tests() -> None:
    names = standard_library(LIBRARY)
    assert Path("dataclasses.py") in names
    assert Path("json/decoder.py") in names
    assert names == sorted(names, key=Path.as_posix)
    parts = {part for name in names for part in name.parts}
    assert not parts & {"test", "tests", "site-packages", "__pycache__"}
