"""Whole jobs on a simulated device that does what real ones do to a program: fail in a step, lack a deterministic form,
and give other bits where a tensor begins elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dougong.records.directory import RunDir
from dougong.records.events import FailureDiagnosed
from tests.accelerators.test_simulated import Vendors, island, rows_of
from tests.families import config_values

pytestmark = [pytest.mark.simulated, pytest.mark.slow]


@pytest.fixture
def vendors(tmp_path: Path) -> Vendors:
    return Vendors(tmp_path)


def model(family: str) -> dict[str, Any]:
    return {"family": family, "config": config_values(family, num_hidden_layers=2, hidden_size=56, head_dim=8)}


def test_a_device_error_in_a_step_is_named_as_one_with_its_worker(vendors: Vendors) -> None:
    vendors.settings = {"SIMDEV_FAILS_AT": "aten::cos:3"}
    islands = [island("sima", "attention"), island("cpu", "experts")]
    job = vendors.job("fails", islands, fault={"max_restarts": 0})
    path = vendors.folder / "fails"
    ended = vendors.dougong("run", str(job), "--no-ray", "--run-dir", str(path))
    assert ended.returncode == 1
    failures = [event for event in RunDir(path).read_events() if isinstance(event, FailureDiagnosed)]
    assert [(event.worker, event.failure) for event in failures] == [("sima/0", "device")]
    assert "an illegal memory access was encountered" in ended.stdout + ended.stderr


def test_an_operator_without_a_deterministic_form_is_refused_with_its_name_and_layer(vendors: Vendors) -> None:
    vendors.settings = {"SIMDEV_UNORDERED": "aten::cos"}
    job = vendors.job("unordered", [island("sima")])
    ended = vendors.dougong("run", str(job), "--no-ray", "--run-dir", str(vendors.folder / "unordered"))
    said = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "model.rotary_emb (Qwen3MoeRotaryEmbedding): torch's operator aten::cos has no deterministic form" in said
    off = vendors.job("off", [island("sima")], determinism="off")
    ended = vendors.dougong("run", str(off), "--no-ray", "--run-dir", str(vendors.folder / "off"))
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_bits_are_those_of_any_layout_on_a_device_that_minds_where_tensors_begin(family: str, vendors: Vendors) -> None:
    vendors.settings = {"SIMDEV_MINDS_LAYOUT": "1"}
    found = []
    for number, islands in enumerate(
        (
            [island("sima")],
            [island("sima", workers=2)],
            [island("sima", "attention"), {**island("sima", "experts"), "name": "other"}],
        )
    ):
        run_dir = vendors.run(f"minds-{family}-{number}", islands, model=model(family), numerics="exact")
        found.append(rows_of(run_dir))
    assert found[0] == found[1] == found[2]
