"""What a model folder holds beside what is trained is told once, before the run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.errors import ModelError
from dougong.job.schema import Job
from dougong.remarks import Remarks
from dougong.tools.job_check import folder_notes
from dougong.training.start.folder_remarks import folder_remarks
from dougong.training.start.preflight import inspect_only, remarks_on
from tests.folders import Tensors, change_config, change_weights, small_folder
from tests.quantised_folders import to_fp8

DOWN = "model.layers.1.mlp.experts.3.down_proj.weight"


def job_of(folder: Path, **config: Any) -> Job:
    return Job.model_validate(
        {
            "job": "look",
            "model": {"path": str(folder), "config": config},
            "data": {"text": "stdlib", "sequence_length": 8},
            "steps": 1,
            "islands": [{"name": "east", "accelerator": "cpu"}],
        }
    )


def told(folder: Path, **config: Any) -> Remarks:
    job = job_of(folder, **config)
    return folder_remarks(job, inspect_only(job))


def add(*names: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: torch.ones(2) for name in names})


def test_of_a_folder_that_is_as_it_says_nothing_is_told(tmp_path: Path) -> None:
    assert told(small_folder(tmp_path)) == Remarks()
    assert told(small_folder(tmp_path / "tied", tie_word_embeddings=True)) == Remarks()


def test_tensors_that_the_model_does_not_use_are_told_by_pattern(tmp_path: Path) -> None:
    change_weights(small_folder(tmp_path), add("mtp.0.proj.weight", "mtp.norm.weight"))
    change_config(tmp_path, num_nextn_predict_layers=1)
    job = job_of(tmp_path)
    notes = remarks_on(job, inspect_only(job)).notes  # what plan and a run tell
    begin = f"model.path: {tmp_path}: "
    assert notes[0] == f"{begin}2 tensors not used: mtp.*; neither trained nor written into checkpoints"
    assert notes[1].startswith(f"{begin}its configuration says num_nextn_predict_layers: 1; layers for multi-token")
    assert len(notes) == 2


def test_layers_that_a_job_leaves_out_are_told(tmp_path: Path) -> None:
    assert "tensors not used: model.layers.1.*;" in told(small_folder(tmp_path), num_hidden_layers=1).notes[0]


def test_a_head_that_differs_from_the_embedding_it_is_tied_to_is_told(tmp_path: Path) -> None:
    small_folder(tmp_path, tie_word_embeddings=True)
    change_weights(tmp_path, lambda tensors: tensors.update({"lm_head.weight": torch.ones(256, 16)}))
    assert "lm_head.weight and model.embed_tokens.weight with different values" in told(tmp_path).notes[0]
    message = "ties lm_head.weight to model.embed_tokens.weight, but the folder holds both with different values"
    with pytest.raises(ModelError, match=message):
        told(tmp_path, tie_word_embeddings=True)


def test_code_of_a_known_family_is_told_not_to_run(tmp_path: Path) -> None:
    change_config(small_folder(tmp_path), auto_map={"AutoConfig": "own.OwnConfig"})
    assert "its own code (auto_map) is not used" in told(tmp_path).notes[0]


def test_what_lies_beside_the_model_is_told_by_check_plan_and_a_run_alike(tmp_path: Path) -> None:
    change_config(small_folder(tmp_path), auto_map={"AutoConfig": "own.OwnConfig"}, custom_pipelines={"a": {}})
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "own.py").write_text("")
    (tmp_path / "generation_config.json").write_text('{"custom_generate": "own/code"}')
    notes = told(tmp_path).notes
    assert tuple(folder_notes(job_of(tmp_path))) == notes and len(notes) == 4
    assert [note.removeprefix(f"model.path: {tmp_path}: ")[:30] for note in notes] == [
        "its own code (auto_map, custom", "adapter_config.json: an adapte", "own.py is neither read nor wri",
        "generation_config.json goes in",
    ]  # fmt: skip


def test_layers_for_multi_token_prediction_are_told_by_check_too(tmp_path: Path) -> None:
    change_config(small_folder(tmp_path), num_nextn_predict_layers=1)
    assert tuple(folder_notes(job_of(tmp_path))) == told(tmp_path).notes
    assert not list(folder_notes(job_of(tmp_path, num_nextn_predict_layers=0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(DOWN), f"holds no tensor {DOWN}"),
        (lambda tensors: tensors.update({DOWN: torch.ones(1)}), f"{DOWN} has shape (1,), but the model has (16, 8)"),
        (
            lambda tensors: tensors.update({DOWN: torch.ones(16, 8, dtype=torch.int8)}),
            f"{DOWN} is stored as I8, as quantised weights are, which cannot be trained; dequantise",
        ),
        (add("model.layers.0.self_attn.k_scale"), "model.layers.0.self_attn.k_scale (F32), a scale of quantised"),
    ],
)
def test_a_tensor_of_another_model_or_a_quantised_one_is_refused_before_the_run(
    change: Callable[[Tensors], object], message: str, tmp_path: Path
) -> None:
    change_weights(small_folder(tmp_path), change)
    with pytest.raises(ModelError, match=re.escape(message)):
        told(tmp_path)


def test_small_files_are_looked_at_before_the_run(tmp_path: Path) -> None:
    small_folder(tmp_path)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate((64 << 20) + 1)  # takes no room on the disk
    assert "huge.json does not go into checkpoints: it has more than 64 MiB" in told(tmp_path).notes[0]
    (tmp_path / "generation_config.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=r"generation_config.json: is a git-lfs pointer.*git lfs pull"):
        told(tmp_path)


def test_an_incomplete_folder_is_found_by_plan_before_the_data_is_looked_at(tmp_path: Path) -> None:
    (small_folder(tmp_path) / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="model.safetensors: is a git-lfs pointer"):
        inspect_only(job_of(tmp_path))


def test_a_job_that_asks_for_other_sizes_is_told_of_its_own_keys(tmp_path: Path) -> None:
    small_folder(tmp_path)
    with pytest.raises(ModelError, match=r"has shape .*; or model.config \(hidden_size\) makes it another model"):
        told(tmp_path, hidden_size=32)


def test_quantised_weights_are_told_by_check_and_by_a_run_alike(tmp_path: Path) -> None:
    to_fp8(small_folder(tmp_path))
    (note,) = told(tmp_path).notes
    assert "tensors of FP8 blocks of 16 x 24 (of " in note and tuple(folder_notes(job_of(tmp_path))) == (note,)
