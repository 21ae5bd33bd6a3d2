"""Documents from files: which, in which order, in which pieces."""

import gzip
import os
from pathlib import Path

import pytest
from dougong.data.documents.text import BLOCK_BYTES, content_digest, text_files
from dougong.errors import DataError
from tests.data.texts import tokens_of, write_files


def test_files_of_a_glob_in_order(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", b="two\n", a="one\n", c="", d="three")
    assert tokens_of(text_files(f"{folder}/*.txt"), tmp_path / "cache") == b"one\n\0two\n\0three\0"


def test_one_file_and_a_deep_glob(tmp_path: Path) -> None:
    write_files(tmp_path / "in", a="one")
    write_files(tmp_path / "in" / "deep", b="two")
    assert tokens_of(text_files(str(tmp_path / "in" / "a.txt")), tmp_path / "cache") == b"one\0"
    assert tokens_of(text_files(f"{tmp_path}/in/**/*.txt"), tmp_path / "cache") == b"one\0two\0"


def test_a_long_file_comes_in_blocks_without_loss(tmp_path: Path) -> None:
    text = "".join(f"line {i}\n" * (i % 5) for i in range(45_000))
    folder = write_files(tmp_path / "in", a=text)
    corpus = text_files(str(folder / "a.txt"))
    (document,) = corpus.documents()
    blocks = list(document.blocks())
    assert len(blocks) > 2 and all(len(block) <= BLOCK_BYTES for _, block in blocks)
    assert [start for start, _ in blocks] == [BLOCK_BYTES * number for number in range(len(blocks))]
    assert tokens_of(corpus, tmp_path / "cache") == text.encode() + b"\0"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="\ufeffone", b="\ufefftwo", c="\ufeff")
    corpus = text_files(f"{folder}/*.txt")
    assert tokens_of(corpus, tmp_path / "cache") == b"one\0two\0"
    assert next(iter(next(iter(corpus.documents())).blocks())) == (3, b"one")


def test_a_file_of_something_else_is_refused_before_any_is_read(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="one")
    (folder / "b.txt").write_bytes(gzip.compress(b"two"))
    with pytest.raises(DataError, match=r"data\.text: .*b\.txt: is gzip data, not plain text; unpack it first: gunzip"):
        text_files(f"{folder}/*.txt")


def test_a_file_rewritten_in_the_same_instant_is_seen(tmp_path: Path) -> None:
    file = write_files(tmp_path / "in", a="one") / "a.txt"
    times = file.stat()
    before = text_files(str(file)).key(), content_digest([file])
    file.write_text("two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert before[0] != text_files(str(file)).key() and before[1] != content_digest([file])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("in", "is a folder; name its files with a glob, such as .*/in/\\*\\*/\\*.txt"),
        ("none.txt", "no such file, and no file matches it"),
        ("in/*.md", "no such file, and no file matches it"),
    ],
)
def test_names_that_mean_nothing(tmp_path: Path, name: str, message: str) -> None:
    write_files(tmp_path / "in", a="one")
    with pytest.raises(DataError, match=message):
        text_files(str(tmp_path / name))
