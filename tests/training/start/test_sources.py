"""What a run has read when it began, and what is said when that is there no more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dougong.control.run_sources import RunSources
from dougong.errors import DataError, ModelError
from dougong.job.schema import Job
from dougong.job.settled import settle
from dougong.training.start.preflight import inspect
from dougong.training.start.sources import check_data, check_weights, compare_sources
from tests.chats import chat_tokenizer, many, write_chats
from tests.folders import change_config, change_weights, small_folder
from tests.pictures import look, picture, seeing_folder, seeing_values, write_processor


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A model folder and tokens with a side file."""
    small_folder(tmp_path / "model")
    np.arange(4096, dtype="<u4").__mod__(200).tofile(tmp_path / "t.bin")
    (tmp_path / "t.bin.json").write_text('{"dtype": "uint32"}')
    return tmp_path


def job_of(files: Path, **changes: Any) -> Job:
    return Job.model_validate(
        {
            "job": "kept",
            "model": {"path": str(files / "model")},
            "data": {"tokens": str(files / "t.bin"), "sequence_length": 16},
            "steps": 1,
            "islands": [{"name": "east", "accelerator": "cpu"}],
            **changes,
        }
    )


def begun(files: Path, **changes: Any) -> tuple[Job, RunSources]:
    """The job of a run that goes on, and what the run had read when it began."""
    job = job_of(files, **changes)
    known = inspect(job).sources
    assert known is not None
    return settle(job, known.config, known.config_class, None), known


def test_what_a_run_begins_with_is_found(files: Path) -> None:
    _, known = begun(files)
    assert known.config["rms_norm_eps"] == 1e-6 and known.config_class.endswith(".Qwen3MoeConfig")
    assert [Path(name).name for name in known.weights] == ["model.safetensors"]
    assert [Path(name).name for name in known.side_files] == ["t.bin.json"]
    assert known.tokenizer == {}


def test_of_files_that_are_as_they_were_nothing_is_told(files: Path) -> None:
    job, known = begun(files)
    found = inspect(job, known)
    assert (found.notes, found.warnings, found.sources) == ((), (), known)


def test_another_configuration_is_refused_by_key_or_told(files: Path) -> None:
    job, known = begun(files)
    change_config(files / "model", rms_norm_eps=0.5)
    with pytest.raises(ModelError, match="config.json is not as .*: rms_norm_eps: 1e-06 then, 0.5 now; .*take the f"):
        inspect(job, known)
    bounded = job.model_copy(update={"numerics": "bounded"})
    found = inspect(bounded, known)
    assert "rms_norm_eps: 1e-06 then, 0.5 now; the run goes on with the configuration it has kept" in found.warnings[0]
    assert found.inventory == inspect(job_of(files)).inventory


def test_a_folder_that_is_gone_or_broken_is_told_and_not_needed(files: Path) -> None:
    job, known = begun(files)
    (files / "model" / "config.json").write_text("{")
    assert "is not JSON" in compare_sources(job, known).warnings[0]
    shutil.rmtree(files / "model")
    found = inspect(job, known)
    assert found.notes == (f"model.path: {files}/model is gone; the run goes on from what it has kept",)


def test_weights_are_needed_until_there_is_a_checkpoint(files: Path) -> None:
    job, known = begun(files)
    check_weights(known)
    change_weights(files / "model", lambda tensors: tensors["lm_head.weight"].add_(1))
    with pytest.raises(ModelError, match="model.safetensors: not as when this run began .*, and it has no checkpoint"):
        check_weights(known)
    (warning,) = compare_sources(job, known).warnings
    assert "model.safetensors: not as when this run began" in warning


def test_other_data_is_refused_with_the_file_that_changed(files: Path) -> None:
    job, known = begun(files)
    check_data(known, job, "t.bin", known.data)
    ids = np.fromfile(files / "t.bin", dtype="<u4")
    ids[7] += 1
    ids.tofile(files / "t.bin")
    with pytest.raises(
        DataError, match=f"began with data of digest {known.data}, .* now .changed since: .*/t.bin., so"
    ):
        inspect(job, known)
    (files / "t.bin.json").write_text('{"dtype": "int32"}')
    with pytest.raises(DataError, match="changed since: .*/t.bin, .*/t.bin.json"):
        inspect(job, known)


def test_a_new_file_that_a_glob_finds_is_named(files: Path) -> None:
    (files / "a.txt").write_text("a" * 99)
    job, known = begun(files, data={"text": f"{files}/*.txt", "tokenizer": "bytes", "sequence_length": 16})
    (files / "b.txt").write_text("b" * 99)
    with pytest.raises(DataError, match=rf"now \(not there then: {files}/b\.txt\), so the next steps"):
        check_data(known, job, "*.txt", "another")
    (files / "a.txt").write_text("c")
    for number in range(7):
        (files / f"c{number}.txt").write_text("c")
    with pytest.raises(DataError, match=r"changed since: .*/a\.txt; not there then: .*/b\.txt, .*/c3.txt and 3 more\)"):
        check_data(known, job, "*.txt", "another")


def test_an_image_that_changed_is_named_and_its_processor_is_kept(files: Path) -> None:
    tokenizer = seeing_folder(files / "tok", "qwen3_vl_moe")
    picture(files / "a.png")
    chats = write_chats(files / "a.jsonl", [look("a.png", "and", "a.png")] * 8)
    data = {"chat": str(chats), "tokenizer": str(tokenizer), "sequence_length": 96}
    model = {"family": "qwen3_vl_moe", "config": seeing_values("qwen3_vl_moe", tokenizer, 330)}
    job, known = begun(files, data=data, model=model)
    assert list(known.data_files) == [str(chats), f"{files}/a.png"]
    assert f"{tokenizer}/preprocessor_config.json" in known.tokenizer
    picture(files / "a.png", seed=1)
    with pytest.raises(DataError, match=rf"\(changed since: {files}/a\.png\), so the next steps would be another"):
        inspect(job, known)


def test_the_processor_of_a_models_folder_is_kept_beside_another_tokenizer(files: Path) -> None:
    tokenizer = chat_tokenizer(files / "tok")
    small_folder(files / "model", vocab_size=330)
    write_processor(files / "model", "qwen3_vl_moe")
    chats = write_chats(files / "a.jsonl", many(40))
    _, known = begun(files, data={"chat": str(chats), "tokenizer": str(tokenizer), "sequence_length": 64})
    assert f"{files}/model/preprocessor_config.json" in known.tokenizer


def test_a_tokenizer_is_known_by_its_files(files: Path) -> None:
    tokenizer = files / "tok"
    tokenizer.mkdir()
    vocab = {chr(97 + i): i for i in range(26)}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "a"}
    whole = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    (tokenizer / "tokenizer.json").write_text(json.dumps(whole))
    (files / "a.txt").write_text("a\n" * 99)
    data = {"text": str(files / "a.txt"), "tokenizer": str(tokenizer), "sequence_length": 8}
    job, known = begun(files, data=data)
    assert [Path(name).name for name in known.tokenizer] == ["tokenizer.json"]
    (tokenizer / "tokenizer.json").write_text("{}")
    assert "data.tokenizer: " in compare_sources(job, known).warnings[0]
    (tokenizer / "tokenizer.json").unlink()
    note = compare_sources(job, known).notes[-1]
    assert note == f"data.tokenizer: {tokenizer}/tokenizer.json is gone; the run goes on with its own copy"
    # The run reads its own copy, so other data is the data's own doing.
    with (files / "a.txt").open("a") as file:
        file.write("b\n")
    with pytest.raises(DataError, match=rf"\(changed since: {files}/a\.txt\), so"):
        check_data(known, job, "a.txt", "another")
