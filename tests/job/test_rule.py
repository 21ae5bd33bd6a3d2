"""What rules look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dougong.job.rule import counts, model_config, num_workers, worker_names
from dougong.job.schema import Island, Job
from tests.job.test_schema import LEAST


def test_worker_names() -> None:
    islands = [Island(name="east", accelerator="cpu", workers=2), Island(name="west", accelerator="npu")]
    assert worker_names(islands) == ["east/0", "east/1", "west/0"]


def test_workers_of_both_roles_count_in_each() -> None:
    islands: list[dict[str, Any]] = [
        {"name": "a", "accelerator": "cpu", "workers": 2, "role": "attention"},
        {"name": "e", "accelerator": "cpu", "workers": 3, "role": "experts"},
        {"name": "b", "accelerator": "cpu", "workers": 4},
    ]
    job = Job.model_validate({**LEAST, "islands": islands})
    assert (num_workers(job, "attention"), num_workers(job, "experts")) == (6, 7)


def test_the_job_s_keys_lie_over_the_folder_s(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_experts": 8, "hidden_size": 4}))
    job = Job.model_validate({**LEAST, "model": {"path": str(tmp_path), "config": {"num_experts": 2}}})
    assert model_config(job) == {"num_experts": 2, "hidden_size": 4}
    (tmp_path / "config.json").write_text("[")
    assert model_config(job) == {"num_experts": 2}


def test_only_whole_numbers_are_counts() -> None:
    assert counts({"a": 3, "b": True, "c": "4", "d": 5}, ("d", "a", "b", "c", "e")) == [("d", 5), ("a", 3)]
