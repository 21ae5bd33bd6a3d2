"""Which tokenizer a job means, and that it is written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dougong.job.load import load_job
from dougong.job.parts.data import Data
from dougong.job.schema import Job
from dougong.job.tokenizer_choice import default_tokenizer, ready_tokens, tokenizer_of
from tests.launcher.jobs import write


def model_folder(folder: Path, vocab_size: int = 256, **files: str) -> Path:
    """A folder with a configuration and such other files."""
    folder.mkdir()
    config = {"model_type": "qwen3_moe", "vocab_size": vocab_size, "max_position_embeddings": 512}
    for name, text in {"config.json": json.dumps(config), **files}.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json"])
def test_a_model_folder_brings_its_own(tmp_path: Path, file: str) -> None:
    folder = model_folder(tmp_path / "model", 32_000, **{file: "{}"})
    resolved = load_job(write(tmp_path, model="{path: model}"))
    assert resolved.job.data.tokenizer == str(folder) == tokenizer_of(resolved.job)
    assert f"  tokenizer: {folder}\n" in resolved.to_yaml()


def test_what_a_run_has_written_down_stays(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    resolved = load_job(write(tmp_path, model="{path: model}"))
    (tmp_path / "resolved.yaml").write_text(resolved.to_yaml())
    (folder / "tokenizer.json").write_text("{}")
    assert load_job(tmp_path / "resolved.yaml").job == resolved.job
    assert resolved.job.data.tokenizer == "bytes"


def test_the_job_s_own_word_comes_first(tmp_path: Path) -> None:
    model_folder(tmp_path / "model", **{"tokenizer.json": "{}"})
    (tmp_path / "other.json").write_text("{}")
    data = "{text: stdlib, tokenizer: other.json}"
    path = write(tmp_path, model="{path: model}", data=data)
    assert load_job(path).job.data.tokenizer == str(tmp_path / "other.json")
    assert load_job(path, ["data.tokenizer=bytes"]).job.data.tokenizer == "bytes"
    assert load_job(path, ["data.tokenizer=null"]).job.data.tokenizer == str(tmp_path / "model")


def test_without_a_folder_it_is_bytes(tmp_path: Path) -> None:
    assert load_job(write(tmp_path)).job.data.tokenizer == "bytes"
    assert default_tokenizer(None) == default_tokenizer(str(model_folder(tmp_path / "model"))) == "bytes"


def test_token_ids_have_none() -> None:
    data = Data(tokens="ids.bin")
    assert (ready_tokens(data), ready_tokens(Data(text="stdlib"))) == ("tokens", None)
    values = {"job": "t", "model": {"family": "x"}, "data": data, "steps": 1}
    assert tokenizer_of(Job.model_validate({**values, "islands": [{"name": "a", "accelerator": "cpu"}]})) is None
