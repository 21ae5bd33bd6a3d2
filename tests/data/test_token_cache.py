"""Text is tokenised once, whoever asks at once; text that cannot be used leaves nothing."""

import json
import multiprocessing
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from dougong.data.documents.text import Block, text_files
from dougong.data.token_cache import open_corpus, starts_of
from dougong.data.tokenizer import Bytes, open_tokenizer
from dougong.errors import DataError
from tests.data.made_tokenizers import add_marks, byte_level
from tests.data.test_tokenizer import train_tokenizer
from tests.data.texts import tokens_of, write_files


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


def test_empty_text_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="", b="")
    with pytest.raises(DataError, match=r"\*\.txt: byte 0: there is no text in it"):
        tokens_of(text_files(f"{folder}/*.txt"), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="good\n")
    (folder / "b.txt").write_bytes(b"fine\nba\xffd\n")
    tokenizer = open_tokenizer(str(train_tokenizer(tmp_path / "tok")))
    with pytest.raises(DataError, match=r"b\.txt: byte 7: not UTF-8 .*iconv"):
        open_corpus(text_files(f"{folder}/*.txt"), tokenizer, tmp_path / "cache")


def test_a_nul_byte_after_the_first_piece_is_named(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="good\n" * 1000 + "\0")
    with pytest.raises(DataError, match=r"a\.txt: byte 5000: a NUL byte, which no text holds; .*iconv"):
        open_corpus(text_files(f"{folder}/*.txt"), open_tokenizer("bytes"), tmp_path / "cache")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="one")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot be written \(.*`cache: FOLDER` .* XDG_CACHE_HOME; or .*data.tokens"):
        tokens_of(text_files(str(folder / "a.txt")), tmp_path / "cache")


def test_a_user_without_a_home_names_a_cache(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="one")
    with pytest.raises(DataError, match=r"a\.txt: no place for the cache: .*`cache: FOLDER` in the job file"):
        open_corpus(text_files(str(folder / "a.txt")), open_tokenizer("bytes"), None)


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="one")
    corpus = text_files(str(folder / "a.txt"))
    (folder / "a.txt").unlink()
    with pytest.raises(DataError, match=r"a\.txt: cannot be opened \(No such file or directory\)"):
        tokens_of(corpus, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_ids_need_the_wider_type(tmp_path: Path) -> None:
    class Wide(Bytes):
        def encode(self, blocks: Iterable[Block]) -> Iterator[np.ndarray]:
            yield np.array([69999], dtype=np.int64)

    folder = write_files(tmp_path / "in", a="one")
    tokens = open_corpus(text_files(str(folder / "a.txt")), Wide(num_ids=70000), tmp_path / "cache")
    assert tokens.read(0, 2).tolist() == [69999, 0]


def test_marks_go_around_each_document_that_is_not_empty(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="the", b="", c="nails")
    made = add_marks(byte_level())
    (tmp_path / "tok").mkdir()
    made.save(str(tmp_path / "tok" / "tokenizer.json"))
    (tmp_path / "tok" / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    tokenizer = open_tokenizer(str(tmp_path / "tok"))
    tokens = open_corpus(text_files(f"{folder}/*.txt"), tokenizer, tmp_path / "cache")
    assert tokens.read(0, tokens.num_tokens).tolist() == made.encode("the").ids + made.encode("nails").ids


def test_an_id_beyond_the_model_s_vocabulary_names_text_and_tokenizer(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", a="one")
    tokens = open_corpus(text_files(str(folder / "a.txt")), Bytes(), tmp_path / "cache")
    with pytest.raises(DataError, match=r"a\.txt: token 0: id 111 of the tokenizer bytes .* to at least 256"):
        tokens.check_all(100)


def test_the_starts_of_documents_are_kept_and_an_older_entry_without_them_stays(tmp_path: Path) -> None:
    folder, cache = write_files(tmp_path / "in", a="one", b="", c="two"), tmp_path / "cache"
    corpus = text_files(f"{folder}/*.txt")
    plain = open_corpus(corpus, Bytes(), cache)
    assert starts_of(plain).ids.tolist() == [0, 4]
    assert open_corpus(corpus, Bytes(), cache, with_starts=True).path == plain.path
    for name in ("starts.bin", "starts.bin.json"):
        (plain.path.parent / name).unlink()  # as an older release has left it
    assert open_corpus(corpus, Bytes(), cache).path == plain.path
    other = open_corpus(corpus, Bytes(), cache, with_starts=True)
    assert other.path != plain.path and other.digest() == plain.digest()
    assert starts_of(other).ids.tolist() == [0, 4]
    assert open_corpus(corpus, Bytes(), cache, with_starts=True).path == other.path
