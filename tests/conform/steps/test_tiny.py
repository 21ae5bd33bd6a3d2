"""Small jobs of every family, and what is no model."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.conform.steps.tiny import job_of
from dougong.errors import ModelError
from tests.families import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_a_small_configuration(family: str) -> None:
    job = job_of(family)
    assert job.model.family == family and job.model.config["hidden_size"] == 64


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("qwen3_mo", "neither a folder nor a family .* did you mean qwen3_moe"),
        ("zzz", "neither a folder nor a family .* such as qwen3_moe"),
        ("jetmoe", "keeps its experts as separate modules.*; not supported"),
    ],
)
def test_what_is_no_model_is_refused(model: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        job_of(model)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="config.json"):
        job_of(str(tmp_path))
