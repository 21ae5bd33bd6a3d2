"""Rules that tie a job to the files of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dougong.job.data_files import LIBRARY
from dougong.job.load import load_job
from tests.job.refusing import refusals
from tests.launcher.jobs import write


def test_data_files(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("texts/a.txt", "ids.bin", "corpus.bin", "corpus.idx", "half.bin", "tokenizer.json", "rows.jsonl"):
        (tmp_path / name).write_text("x")
    model = "{family: qwen3_moe, config: {vocab_size: 99}}"
    here = tmp_path
    good = ["text: texts/a.txt", "text: 'texts/*.txt'", "text: '**/*.txt'", "tokens: ids.bin", "megatron: corpus",
            "text: stdlib, tokenizer: tokenizer.json", "dataset: some/name", "dataset: texts",
            "dataset: rows.jsonl", "dataset: 'row*.jsonl'",
            "chat: rows.jsonl, tokenizer: tokenizer.json", "chat: 'row*.jsonl', tokenizer: tokenizer.json"]  # fmt: skip
    for data in good:
        load_job(write(tmp_path, model=model, data=f"{{{data}}}"))
    bad = {
        "text: none.txt": f"data.text: no file is called {here}/none.txt or matches it as a glob; check the "
        f"path, or use "
        "`stdlib`",
        "text: texts": f"data.text: {here}/texts is a folder; name its files with a glob, such as "
        f"{here}/texts/**/*.txt",
        "tokens: texts": f"data.tokens: there is no file {here}/texts on this machine; check the path",
        "megatron: half": f"data.megatron: there is no file {here}/half.idx; give the path without .bin",
        "megatron: corpus.bin": f"data.megatron: there is no file {here}/corpus.bin.bin and no file "
        f"{here}/corpus.bin.idx; "
        "give the path without .bin",
        "dataset: none.jsonl": f"data.dataset: no file is called {here}/none.jsonl or matches it as a glob; check the "
        "path",
        "chat: texts, tokenizer: tokenizer.json": f"data.chat: {here}/texts is a folder; name its files with a glob, "
        f"such as {here}/texts/*.jsonl",
        "chat: none.jsonl, tokenizer: tokenizer.json": f"data.chat: no file is called {here}/none.jsonl or "
        "matches it as a glob; check the path",
        "dataset: 'none/*'": f"data.dataset: no file is called {here}/none/* or matches it as a glob; check the path",
        "dataset: ./none": "data.dataset: ./none is no folder on this machine; check the path, or give a name on the "
        "hub",
        f"dataset: {here}/texts/a.txt": f"data.dataset: {here}/texts/a.txt is no folder on this machine; a plain text "
        "file goes into data.text, token ids into data.tokens",
        "text: stdlib, tokenizer: gpt2": f"data.tokenizer: there is no {here}/gpt2; give `bytes`, a "
        f"tokenizer.json, or a "
        "Hugging Face folder",
        "tokens: ids.bin, tokenizer: tokenizer.json": "data.tokenizer: data.tokens holds token ids, so nothing "
        "is left to "
        "tokenise; remove data.tokenizer",
    }
    for data, line in bad.items():
        assert refusals(write(tmp_path, model=model, data=f"{{{data}}}")) == [line]


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-this-name/a", "a\\0b"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    for section in ("data", "model"):
        key = "text" if section == "data" else "path"
        assert refusals(write(tmp_path, **{section: f'{{{key}: "{name}"}}'}))[0].startswith(f"{section}.{key}: ")


def test_token_files_need_the_size_of_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "ids.bin").write_text("x")
    assert refusals(write(tmp_path, data="{tokens: ids.bin}")) == [
        "model.config: has no vocab_size, and data.tokens does not say how many ids there are; add vocab_size: NUMBER"
    ]


def test_a_model_s_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    path = write(tmp_path, model="{path: model}")
    assert refusals(path) == [
        f"model.path: {folder}/config.json: No such file or directory; name a Hugging Face folder that is on "
        f"this machine"
    ]
    folder.mkdir()
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refusals(path)[0]
    (folder / "config.json").write_text("[]")
    assert "holds no JSON object" in refusals(path)[0]
    (folder / "config.json").write_text(json.dumps({"num_experts": 1}))
    assert "1 experts for 2 experts workers" in refusals(path)[0]
    assert load_job(path, ["model.config.num_experts=2"]).job.model.path == str(folder)
    assert refusals(path, "model.family=mixtral", "model.config.num_experts=2") == [
        "model.path: a second model beside model.family; keep one of them"
    ]


SAME = "data.mixture.1.%s: HERE/%s is data of data.mixture.0 already%s, and what one of them holds out the other would"


@pytest.mark.parametrize(
    ("one", "other", "line"),
    [
        ("dataset: d/a.jsonl", "dataset: d/a.jsonl, column: text", SAME % ("dataset", "d/a.jsonl", "")),
        ("dataset: d", "dataset: d/a.jsonl", SAME % ("dataset", "d/a.jsonl", "")),
        ("dataset: d/a.jsonl", "dataset: d", SAME % ("dataset", "d/a.jsonl", "")),
        ("dataset: d, column: x", "text: 'd/*.jsonl'", SAME % ("text", "d/a.jsonl", "")),
        ("text: a.txt", "text: hard.txt", SAME % ("text", "hard.txt", ", as HERE/a.txt")),
        ("text: a.txt", "text: soft.txt", SAME % ("text", "soft.txt", ", as HERE/a.txt")),
        ("dataset: some/name", "dataset: some/name", "data.mixture.1.dataset: some/name is data of data.mixture.0"),
        ("text: stdlib", f"text: '{LIBRARY}/json/*.py'", f"data.mixture.1.text: {LIBRARY}/json/__init__.py is data of"),
        ("dataset: d, column: x", "dataset: d, column: y", None),
        ("text: a.txt", "dataset: d", None),
    ],
)
def test_one_file_is_data_of_one_source(one: str, other: str, line: str | None, tmp_path: Path) -> None:
    """By whatever name, and in whatever folder or glob."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.jsonl").write_text("{}")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "hard.txt").hardlink_to(tmp_path / "a.txt")
    (tmp_path / "soft.txt").symlink_to(tmp_path / "a.txt")
    data = f"{{tokenizer: bytes, mixture: [{{{one}, weight: 1.0}}, {{{other}, weight: 1.0}}]}}"
    job = write(tmp_path, model="{family: qwen3_moe, config: {vocab_size: 256}}", data=data)
    if line is None:
        load_job(job)
        return
    (found,) = refusals(job)
    assert found.startswith(line.replace("HERE", str(tmp_path)))
