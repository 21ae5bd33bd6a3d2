"""The plan's memory against what a vendor's allocator has counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.simdev import accelerators, build

pytestmark = pytest.mark.simulated

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 192,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_experts": 8,
    "num_experts_per_tok": 2,
}  # fmt: skip
BATCH = {"lanes": 1, "microbatches": 2, "microbatch_size": 2}
JOBS: dict[str, dict[str, Any]] = {
    "zebra": {"pipeline": "zebra"},
    "layers that run again": {
        "recompute": "layers", "pipeline": "zebra", "batch": BATCH | {"lanes": 2, "microbatches": 3},
    },
    "four micro-batches alive, two lanes, bfloat16": {
        "pipeline": "zebra", "precision": "bfloat16", "batch": BATCH | {"lanes": 2, "microbatches": 4},
    },
    "bfloat16, two lanes": {"precision": "bfloat16", "batch": BATCH | {"lanes": 2}},
    "half moments": {"optimizer": {"name": "adamw", "lr": 1e-3, "state": "bfloat16"}},
    "three lanes without a promised order": {
        "pipeline": "serial", "determinism": "run", "batch": {"lanes": 3, "microbatches": 1, "microbatch_size": 1},
    },
    "tiles": {"expert_tile": 32, "batch": BATCH | {"lanes": 2}},
}  # fmt: skip
IN_SHORT = ("zebra", "layers that run again")


def peaks_of(changes: dict[str, Any], folder: Path) -> dict[str, Any]:
    build.built()
    environment = {**os.environ, **accelerators.offer(folder), "SIMDEV_VENDOR": "sima", "OMP_NUM_THREADS": "1"}
    environment["SIMDEV_SYNCHRONISES"] = "1"  # else tensors live until somebody waits for the device
    values = {
        "family": "qwen3_moe", "model": {"family": "qwen3_moe", "config": CONFIG}, "batch": BATCH,
        "data": {"text": "stdlib", "sequence_length": 256}, "islands": [{"name": "east", "accelerator": "sima"}],
    } | changes  # fmt: skip
    words = [sys.executable, "-m", "tests.simdev.peaks", json.dumps(values)]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "name", [name if name in IN_SHORT else pytest.param(name, marks=pytest.mark.slow) for name in JOBS]
)
def test_a_worker_takes_what_was_planned(name: str, tmp_path: Path) -> None:
    found = peaks_of(JOBS[name], tmp_path)
    assert found["planned"] == pytest.approx(found["measured"], rel=0.05), found
    assert found["always"] == pytest.approx(found["between"], rel=0.02), found
