"""What begins and ends a document is found where transformers finds it, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from dougong.data.special_tokens import find_marks
from dougong.errors import DataError
from tests.data.made_tokenizers import add_marks, byte_level

EOS = {"eos_token": "</s>"}
NO_CODE = {"auto_map": {"AutoTokenizer": ["x.Y", None]}, "tokenizer_class": "Y"}


@pytest.fixture(scope="module")
def plain() -> tokenizers.Tokenizer:
    """Its ids: `<s>` 0, `</s>` 1."""
    return byte_level(300)


def folder_with(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("files", "end", "source"),
    [
        ({"tokenizer_config": EOS}, 1, "tokenizer_config.json"),
        ({"tokenizer_config": {"eos_token": {"content": "</s>"}}}, 1, "tokenizer_config.json"),
        ({"special_tokens_map": EOS}, 1, "special_tokens_map.json"),
        ({"special_tokens_map": EOS, "tokenizer_config": {"eos_token": "<s>"}}, 1, "special_tokens_map.json"),
        (
            {"special_tokens_map": EOS, "tokenizer_config": {"eos_token": "<s>", "added_tokens_decoder": {}}},
            0,
            "tokenizer_config.json",
        ),
        ({"config": {"eos_token_id": 1}}, 1, "config.json"),
        ({"config": {"eos_token_id": 0}, "generation_config": {"eos_token_id": [1, 0]}}, 1, "generation_config.json"),
        ({"config": {"eos_token_id": 99999}}, None, None),
        ({"tokenizer_config": {"eos_token": "<unknown>"}}, None, None),
        ({"tokenizer_config": NO_CODE}, None, None),
        ({}, None, None),
    ],
)
def test_the_end_of_a_document(
    tmp_path: Path, plain: tokenizers.Tokenizer, files: dict[str, Any], end: int | None, source: str | None
) -> None:
    marks = find_marks(folder_with(tmp_path, **files), plain, "auto")
    assert (marks.start, marks.end) == ((), end)
    if source is None:
        (warning,) = marks.remarks.warnings
        assert "nothing separates a document from the next; name one of its tokens in" in warning
    else:
        (note,) = marks.remarks.notes
        assert f"ends with {plain.id_to_token(end)} ({end}), named in {source}" in note
        assert marks.remarks.warnings == ()


def test_transformers_finds_the_same(tmp_path: Path, plain: tokenizers.Tokenizer) -> None:
    from transformers import AutoTokenizer

    plain.save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    folder_with(tmp_path, special_tokens_map=EOS, tokenizer_config=settings)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert find_marks(tmp_path, plain, "auto").end == theirs.eos_token_id == 1


def test_a_class_has_an_end_of_its_own(tmp_path: Path) -> None:
    made = byte_level(300)
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(tmp_path / "tokenizer.json"))
    folder_with(tmp_path, tokenizer_config={"tokenizer_class": "GPT2Tokenizer"})
    assert find_marks(tmp_path, made, "auto").end == made.token_to_id("<|endoftext|>")


BOS = {"bos_token": "<s>", **EOS}


@pytest.mark.parametrize(
    ("template", "settings", "bos", "start"),
    [
        (None, BOS, "auto", ()),
        (None, BOS, True, (0,)),
        (None, {**BOS, "add_bos_token": True}, "auto", (0,)),
        (None, {**BOS, "add_bos_token": True}, False, ()),
        ("<s> $A", BOS, "auto", (0,)),
        ("<s> $A </s>", BOS, "auto", (0,)),
        ("<s> <s> $A", BOS, True, (0, 0)),
        ("<s> $A", BOS, False, ()),
        ("$A </s>", BOS, "auto", ()),
    ],
)
def test_the_beginning_of_a_document(
    tmp_path: Path, template: str | None, settings: dict[str, Any], bos: Any, start: tuple[int, ...]
) -> None:
    made = byte_level(300)
    if template is not None:
        add_marks(made, template)
    marks = find_marks(folder_with(tmp_path, tokenizer_config=settings), made, bos)
    assert (marks.start, marks.end) == (start, 1)


def test_what_a_tokenizer_puts_behind_a_text_ends_it(tmp_path: Path) -> None:
    marks = find_marks(tmp_path, add_marks(byte_level(300)), "auto")
    assert (marks.start, marks.end) == ((0,), 1)


def test_a_folder_that_contradicts_itself_is_told(tmp_path: Path) -> None:
    made = add_marks(byte_level(300), "<s> $A")
    folder_with(tmp_path, tokenizer_config={**BOS, "add_bos_token": False})
    (warning,) = find_marks(tmp_path, made, "auto").remarks.warnings
    assert "says add_bos_token: false, but tokenizer.json puts <s> (0) before a text" in warning
    assert find_marks(tmp_path, made, False).remarks.warnings == ()


def test_a_beginning_that_nobody_names_is_refused(tmp_path: Path, plain: tokenizers.Tokenizer) -> None:
    with pytest.raises(DataError, match="data.bos: true, but .* names no bos_token .* remove data.bos"):
        find_marks(tmp_path, plain, True)


@pytest.mark.parametrize("text", ["[", "[]", "\udcff"])
def test_a_file_that_is_no_object(tmp_path: Path, plain: tokenizers.Tokenizer, text: str) -> None:
    (tmp_path / "special_tokens_map.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"special_tokens_map\.json: not a JSON object"):
        find_marks(tmp_path, plain, "auto")
