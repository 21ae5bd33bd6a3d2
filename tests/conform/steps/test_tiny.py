"""Small jobs of every family, and what is no model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dougong.conform.steps.tiny import job_of
from dougong.errors import ModelError
from safetensors.torch import save_file
from tests.families import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_a_small_configuration(family: str) -> None:
    job = job_of(family)
    assert job.model.family == family and job.model.config["hidden_size"] == 64


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("qwen3_mo", "knows no 'qwen3_mo'; did you mean 'qwen3_moe'.*; supported are "),
        ("zzz", "knows no 'zzz'; give a mixture-of-experts family, such as qwen3_moe.*; supported are "),
        ("llama", "llama is a dense family, which has no experts; .*; supported are .*qwen3_moe, .* folders of these$"),
        ("jetmoe", "keeps its experts as separate modules.*; supported are "),
        ("models/none", "--model models/none: there is no such folder; check the path, or give a family's name"),
    ],
)
def test_what_is_no_model_is_refused(model: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        job_of(model)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "has no config.json; give a Hugging Face folder, or a family's name, such as qwen3_moe$"),
        ('{"a', r"config.json: is not JSON \(.*\); download it again, or a family's name"),
        ("[]", "config.json: holds a list, not a JSON object"),
    ],
)
def test_a_folder_without_a_model_is_refused(config: str | None, words: str, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=words) as caught:
        job_of(str(tmp_path))
    said = str(caught.value)
    assert said.startswith(f"--model {tmp_path}") and "model.path" not in said and "\n" not in said


def test_a_file_and_a_folder_of_a_dense_family_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_text("")
    with pytest.raises(ModelError, match=f"^--model {file}: is not a folder; give the Hugging Face folder"):
        job_of(str(file))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=f"^--model {tmp_path}: llama is a dense family"):
        job_of(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="its config.json has no model_type"):
        job_of(str(tmp_path))
