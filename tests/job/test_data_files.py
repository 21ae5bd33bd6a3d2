"""What a name says about files by itself."""

import pytest
from dougong.job.data_files import builder_of, is_pattern, names_files


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
