"""Text to token files: order, cache, races, and text that cannot be used."""

import json
import multiprocessing
import sys
import sysconfig
from pathlib import Path

import datasets
import numpy as np
import pytest
from dougong.data import text as module
from dougong.data.text import Corpus, dataset_rows, open_corpus, standard_library, text_files
from dougong.data.tokenizer import Bytes, open_tokenizer
from dougong.errors import DataError
from tests.data.test_tokenizer import train_tokenizer


def tokens_of(corpus: Corpus, cache: Path) -> bytes:
    tokens = open_corpus(corpus, Bytes(), cache)
    return bytes(tokens.read(0, tokens.num_tokens).tolist())


def write_files(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_files_of_a_glob_in_order(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", b="two\n", a="one\n", c="", d="three")
    assert tokens_of(text_files(f"{folder}/*.txt"), tmp_path / "cache") == b"one\n\0two\n\0three\0"


def test_one_file_and_a_deep_glob(tmp_path: Path) -> None:
    write_files(tmp_path / "in", a="one")
    write_files(tmp_path / "in" / "deep", b="two")
    assert tokens_of(text_files(str(tmp_path / "in" / "a.txt")), tmp_path / "cache") == b"one\0"
    assert tokens_of(text_files(f"{tmp_path}/in/**/*.txt"), tmp_path / "cache") == b"one\0two\0"


def test_a_long_file_is_cut_into_pieces_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", 100)
    monkeypatch.setattr(module, "_PIECES_AT_ONCE", 3)
    text = "".join(f"line {i}\n" * (i % 5) for i in range(300))
    folder = write_files(tmp_path / "in", a=text)
    assert tokens_of(text_files(str(folder / "a.txt")), tmp_path / "cache") == text.encode() + b"\0"


def test_the_standard_library_is_sorted_sources_without_tests() -> None:
    root = Path(sysconfig.get_paths()["stdlib"])
    names = standard_library(root)
    assert Path("dataclasses.py") in names
    assert Path("json/decoder.py") in names
    assert names == sorted(names, key=Path.as_posix)
    parts = {part for name in names for part in name.parts}
    assert not parts & {"test", "tests", "site-packages", "__pycache__"}


def test_text_is_tokenised_once(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="one")
    first = open_corpus(text_files(str(folder / "a.txt")), Bytes(), tmp_path / "cache")
    made = first.path.stat().st_mtime_ns
    again = open_corpus(text_files(str(folder / "a.txt")), Bytes(), tmp_path / "cache")
    assert (again.path, again.path.stat().st_mtime_ns) == (first.path, made)
    assert json.loads((first.path.parent / "tokens.bin.json").read_text()) == {"dtype": "uint16", "tokens": 4}


def test_other_text_or_tokenizer_is_another_entry(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = write_files(tmp_path / "in", a="one")
    corpus = text_files(str(folder / "a.txt"))
    tokenizer = open_tokenizer(str(train_tokenizer(tmp_path / "tok")))
    paths = {open_corpus(corpus, Bytes(), cache).path, open_corpus(corpus, tokenizer, cache).path}
    write_files(tmp_path / "in", a="two")
    paths.add(open_corpus(text_files(str(folder / "a.txt")), Bytes(), cache).path)
    assert len(paths) == 3
    assert not list(cache.glob("*.tmp"))


def race(folder: str, cache: str, barrier, results) -> None:
    corpus = text_files(f"{folder}/*.txt")
    barrier.wait(60)
    results.put(open_corpus(corpus, Bytes(), Path(cache)).digest())


def test_processes_may_race_for_one_entry(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", **{f"f{i}": "some text\n" * 2000 for i in range(40)})
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(4), spawn.Queue()
    workers = [spawn.Process(target=race, args=(str(folder), str(tmp_path / "c"), barrier, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    digests = {results.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join(60)
    assert len(digests) == 1
    assert len(list((tmp_path / "c").iterdir())) == 1


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


def test_empty_text_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="", b="")
    with pytest.raises(DataError, match=r"\*\.txt: byte 0: there is no text in it"):
        tokens_of(text_files(f"{folder}/*.txt"), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="good\n")
    (folder / "b.txt").write_bytes(b"fine\nba\xffd\n")
    tokenizer = open_tokenizer(str(train_tokenizer(tmp_path / "tok")))
    with pytest.raises(DataError, match=r"b\.txt: byte 7: not UTF-8"):
        open_corpus(text_files(f"{folder}/*.txt"), tokenizer, tmp_path / "cache")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="one")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="the token cache cannot be written"):
        tokens_of(text_files(str(folder / "a.txt")), tmp_path / "cache")


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


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="one")
    corpus = text_files(str(folder / "a.txt"))
    (folder / "a.txt").unlink()
    with pytest.raises(DataError, match=r"a\.txt: cannot be opened \(No such file or directory\)"):
        tokens_of(corpus, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_ids_need_the_wider_type(tmp_path: Path) -> None:
    class Wide(Bytes):
        def encode(self, pieces: list[tuple[int, bytes]]) -> np.ndarray:
            return np.array([69999], dtype=np.int64)

    folder = write_files(tmp_path / "in", a="one")
    tokens = open_corpus(text_files(str(folder / "a.txt")), Wide(num_ids=70000), tmp_path / "cache")
    assert tokens.read(0, 2).tolist() == [69999, 0]
