"""Tokenizers: bytes, a tokenizer.json, a Hugging Face folder, and what is none of them."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
from dougong.data.tokenizer import Tokenizer, open_tokenizer
from dougong.errors import DataError
from tokenizers import models, pre_tokenizers, trainers

EMPTY = json.dumps(
    {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {}, "unk_token": "a"}}
)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n"


def train_tokenizer(folder: Path, end: object = None) -> Path:
    """A small real byte-level BPE in `folder`, as Hugging Face saves one."""
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False
    )
    model.train_from_iterator(["the brackets join unlike timbers without nails\n"] * 3, trainer)
    folder.mkdir(exist_ok=True)
    model.enable_truncation(4)
    model.save(str(folder / "tokenizer.json"))
    if end is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end}))
    return folder


def ids_of(tokenizer: Tokenizer, *blocks: bytes, at: int = 0) -> list[int]:
    """The ids of a document whose blocks begin at byte `at` of its file."""
    placed = []
    for block in blocks:
        placed.append((at, block))
        at += len(block)
    return [one for ids in tokenizer.encode(placed) for one in ids.tolist()]


def test_bytes_are_their_own_ids() -> None:
    tokenizer = open_tokenizer("bytes")
    assert ids_of(tokenizer, b"a\xff", b"b") == [97, 255, 98]
    assert (tokenizer.num_ids, tokenizer.start, tokenizer.end) == (256, (), 0)


@pytest.mark.parametrize("as_file", [True, False])
def test_a_trained_tokenizer(tmp_path: Path, as_file: bool) -> None:
    folder = train_tokenizer(tmp_path / "tok", end="<end>")
    tokenizer = open_tokenizer(str(folder / "tokenizer.json" if as_file else folder))
    text = "the timbers join, 斗拱\n" * 5
    ids = ids_of(tokenizer, text.encode())
    assert len(ids) > 4
    model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    model.no_truncation()
    assert ids == model.encode(text, add_special_tokens=False).ids
    assert tokenizer.num_ids == model.get_vocab_size()
    assert tokenizer.end == model.token_to_id("<end>")


def test_a_digest_names_vocabulary_and_end(tmp_path: Path) -> None:
    plain = open_tokenizer(str(train_tokenizer(tmp_path / "a")))
    ended = open_tokenizer(str(train_tokenizer(tmp_path / "b", "<end>")))
    again = open_tokenizer(str(train_tokenizer(tmp_path / "c")))
    assert plain.digest == again.digest != ended.digest


def test_blocks_may_be_cut_inside_a_character(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(str(train_tokenizer(tmp_path)))
    text = "斗拱 join\n".encode()
    for place in range(len(text)):
        assert ids_of(tokenizer, text[:place], text[place:]) == ids_of(tokenizer, text)


def test_a_long_document_has_the_tokens_of_the_whole(tmp_path: Path) -> None:
    short = replace(open_tokenizer(str(train_tokenizer(tmp_path))), piece_characters=300)
    text = "the timbers join, 斗拱\n\n\n" * 200
    assert ids_of(short, text.encode()) == short.model.encode(text).ids


@pytest.mark.parametrize("blocks", [(b"good\n", b"ba\xff\n"), (b"good\nba\xff", b"\n"), (b"good\nba\xe6",)])
def test_bytes_that_are_not_text_have_an_offset(tmp_path: Path, blocks: tuple[bytes, ...]) -> None:
    tokenizer = open_tokenizer(str(train_tokenizer(tmp_path)))
    with pytest.raises(UnicodeDecodeError) as error:
        ids_of(tokenizer, *blocks, at=3)
    assert error.value.start == 10


def test_a_folder_without_tokenizer_json_is_converted(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "join", "timber", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    assert BertTokenizer is not None
    tokenizer = open_tokenizer(str(tmp_path))
    assert ids_of(tokenizer, b"join timbers") == [5, 6, 7]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none.json", "no such file or folder; give `bytes`"),
        (lambda folder: write(folder / "bad.json", "{}"), r"bad\.json: not a tokenizer\.json"),
        (lambda folder: write(folder / "t.json", POINTER), r"t\.json: is a git-lfs pointer, not JSON; .* git lfs pull"),
        (lambda folder: folder, "transformers finds no tokenizer here"),
        (lambda folder: write(folder / "t.json", EMPTY), r"t\.json: the tokenizer knows no token"),
        (lambda folder: write(train_tokenizer(folder) / "tokenizer_config.json", "[").parent, "not a JSON object"),
    ],
)
def test_refusals(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_tokenizer(str(make(tmp_path)))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_no_code_of_a_tokenizers_folder_runs_whatever_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would ask "Do you wish to run the custom code? [y/N]" and go by the answer."""
    marker = tmp_path / "EXECUTED"
    (tmp_path / "own.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).write_text('ran')\n")
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(DataError, match=r"needs its own code .* dougong runs none\); save it with a tokenizer.json"):
        open_tokenizer(str(tmp_path))
    assert not marker.exists()
    # With a tokenizer.json nothing else is needed.
    train_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
    assert open_tokenizer(str(tmp_path)).num_ids > 256 and not marker.exists()
