"""What a run began with is stored once and read back; damage is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.control.run_sources import RunSources, digests_of
from dougong.errors import RecordError
from dougong.records.directory import RunDir
from dougong.records.kept_sources import keep_sources, own_tokenizer, read_sources


def test_what_a_run_begins_with_is_kept_once(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    assert read_sources(run) is None
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    sources = RunSources({"rope": {"theta": 1e6}}, "a.B", "d", {"/m/a.safetensors": "1"}, digests_of([file]))
    keep_sources(run, sources)
    keep_sources(run, RunSources({}, "a.C", "e"))
    assert read_sources(run) == sources
    assert (run.own_tokenizer / "tokenizer.json").read_text() == "{}"
    run.sources_file.write_text("{}")
    with pytest.raises(RecordError, match="sources.json: config: Field required; delete the file"):
        read_sources(run)


def test_the_copy_of_a_tokenizer_is_a_folder_or_the_one_file_that_was_named(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    of_file = RunSources({}, "a.B", "d", tokenizer={"/data/bpe.json": "1"})
    of_folder = RunSources({}, "a.B", "d", tokenizer={"/data/bpe/tokenizer.json": "1"})
    assert own_tokenizer(run, "/data/bpe.json", of_file) == str(run.own_tokenizer / "bpe.json")
    assert own_tokenizer(run, "/data/bpe", of_folder) == str(run.own_tokenizer)
    assert own_tokenizer(run, "bytes", RunSources({}, "a.B", "d")) is own_tokenizer(run, "bytes", None) is None
