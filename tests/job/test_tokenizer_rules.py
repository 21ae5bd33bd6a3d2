"""Rules of how text becomes a model's ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dougong.job.load import load_job
from dougong.job.rule import flat
from dougong.job.tokenizer_rules import number_in
from tests.job.refusing import refusals
from tests.job.test_tokenizer_choice import model_folder
from tests.launcher.jobs import write


def test_bytes_for_a_larger_vocabulary_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", 32_000)
    path = write(tmp_path, model="{path: model}")
    fault = (
        f"data.tokenizer: `bytes` gives 256 ids, but the vocabulary of {folder} has 32000, so its weights have learnt "
        "other ids; "
    )
    insist = "or, if it was trained on bytes, add `allow_bytes: true`"
    (line,) = refusals(path)
    assert line == f"{fault}the folder holds no tokenizer: name the model's own in data.tokenizer, {insist}"
    (folder / "tokenizer.json").write_text("{}")
    (line,) = refusals(path, "data.tokenizer=bytes")
    assert line == f"{fault}remove data.tokenizer to take the folder's own, {insist}"
    assert load_job(path, ["data.tokenizer=bytes", "data.allow_bytes=true"]).job.data.allow_bytes
    assert load_job(path).job.data.tokenizer == str(folder)


@pytest.mark.parametrize("vocab_size", [256, 100])
def test_bytes_for_a_model_of_bytes(tmp_path: Path, vocab_size: int) -> None:
    model_folder(tmp_path / "model", vocab_size)
    assert load_job(write(tmp_path, model="{path: model}")).job.data.tokenizer == "bytes"


def test_the_vocabulary_of_the_text_model_within() -> None:
    assert number_in(flat({"text_config": {"vocab_size": 7}}), "vocab_size") == 7
    assert number_in(flat({"vocab_size": 8, "text_config": {"vocab_size": 7}}), "vocab_size") == 7
    assert number_in(flat({"vocab_size": -1, "text_config": []}), "vocab_size") is None


def test_a_beginning_that_there_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "ids.bin").write_text("x")
    model = "{family: qwen3_moe, config: {vocab_size: 99}}"
    path = write(tmp_path, model=model, data="{tokens: ids.bin, bos: true}")
    assert refusals(path) == ["data.bos: data.tokens holds token ids, to which nothing is added; remove data.bos"]
    assert refusals(write(tmp_path, data="{text: stdlib, bos: true}")) == [
        "data.bos: `bytes` has no token for the beginning of a document; remove data.bos"
    ]
    load_job(write(tmp_path, data="{text: stdlib, bos: false}"))


@pytest.mark.parametrize("word", ["'yes'", "2", "none"])
def test_words_for_bos(tmp_path: Path, word: str) -> None:
    (line,) = refusals(write(tmp_path, data=f"{{text: stdlib, bos: {word}}}"))
    assert line.startswith("data.bos: must be 'auto', True or False (got ")


def test_only_a_data_set_has_columns(tmp_path: Path) -> None:
    (line,) = refusals(write(tmp_path, data="{text: stdlib, column: body}"))
    assert line.startswith("data.column: only a data.dataset has columns; remove it")
    assert load_job(write(tmp_path, data="{dataset: some/name, column: body}")).job.data.column == "body"


def test_sequences_longer_than_the_model_s_positions(tmp_path: Path) -> None:
    model_folder(tmp_path / "model")
    path = write(tmp_path, model="{path: model}", data="{text: stdlib, sequence_length: 513}")
    assert refusals(path) == [
        "data.sequence_length: 513 tokens in a sequence, but the model has positions for 512 "
        "(max_position_embeddings); lower it, or raise model.config.max_position_embeddings (what leaves then says so "
        "too), or insist with `allow_longer_sequences: true`"
    ]
    for change in ("sequence_length=512", "allow_longer_sequences=true"):
        load_job(path, [f"data.{change}"])
    load_job(path, ["model.config.max_position_embeddings=1024"])


def test_positions_that_the_job_itself_names(tmp_path: Path) -> None:
    config = json.dumps({"max_position_embeddings": 128})
    path = write(tmp_path, model=f"{{family: qwen3_moe, config: {config}}}")
    assert "256 tokens in a sequence, but the model has positions for 128" in refusals(path)[0]


def test_a_folder_without_a_tokenizer_is_no_tokenizer(tmp_path: Path) -> None:
    """transformers would make an empty one of its configuration."""
    folder = model_folder(tmp_path / "model")
    path = write(tmp_path, data="{text: stdlib, tokenizer: model}")
    (line,) = refusals(path)
    advice = "name a folder that has its tokenizer.json, or `bytes`"
    assert line == f"data.tokenizer: {folder} holds no tokenizer; {advice}"
    (folder / "tokenizer.json").write_text("{}")
    assert load_job(path).job.data.tokenizer == str(folder)


def test_what_goes_with_chats(tmp_path: Path) -> None:
    for name in ("a.jsonl", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    (line,) = refusals(write(tmp_path, data="{text: stdlib, packing: true}"))
    assert line == "data.packing: only chats are packed; remove it, or name chats in data.chat"
    (line,) = refusals(write(tmp_path, data="{chat: a.jsonl}"))
    assert line.startswith("data.chat: chats need a tokenizer with a chat template; name the folder of an instruct")
    (line,) = refusals(write(tmp_path, data="{chat: a.jsonl, tokenizer: tokenizer.json, bos: true}"))
    assert line == "data.bos: a chat begins as its template says; remove data.bos"
    job = load_job(write(tmp_path, data="{chat: a.jsonl, tokenizer: tokenizer.json}")).job
    assert (job.data.chat, job.data.tokenizer) == (str(tmp_path / "a.jsonl"), str(tmp_path / "tokenizer.json"))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("tokens: a.bin, document_masks: true", "data.tokens: bare ids do not say where documents end; add "),
        ("tokens: a.bin, document_end: 0", "data.document_end: nothing uses it without data.document_masks; add "),
        (
            "tokens: a.bin, document_masks: true, document_start: 1, document_end: 0",
            "data.document_end: a second id beside document_start; keep the one that every document has",
        ),
        (
            "text: stdlib, document_masks: true, document_end: 0",
            "data.document_end: only bare ids (tokens) need it: other data knows where its documents begin; ",
        ),
        (
            "chat: a.jsonl, tokenizer: tokenizer.json, document_masks: true",
            "data.document_masks: chats are by themselves already, several in a sequence with data.packing; ",
        ),
        ("tokens: a.bin, document_masks: true, document_end: -1", "data.document_end: must be at least 0 (got -1): "),
        ("text: stdlib, document_masks: 1", "data.document_masks: must be true or false (got 1): "),
    ],
)
def test_what_tells_documents_apart(data: str, line: str, tmp_path: Path) -> None:
    for name in ("a.jsonl", "tokenizer.json", "a.bin"):
        (tmp_path / name).write_text("{}")
    (found,) = refusals(write(tmp_path, model="{family: qwen3_moe, config: {vocab_size: 99}}", data=f"{{{data}}}"))
    assert found.startswith(line)
