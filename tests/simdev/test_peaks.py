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
from torch.distributed import TCPStore

pytestmark = pytest.mark.simulated

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 192,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_experts": 8,
    "num_experts_per_tok": 2,
}  # fmt: skip
WIDE = CONFIG | {"hidden_size": 384, "intermediate_size": 768, "vocab_size": 4096, "num_hidden_layers": 6}
BATCH = {"lanes": 1, "microbatches": 2, "microbatch_size": 2}
ISLAND = {"name": "east", "accelerator": "sima"}
APART = [ISLAND | {"role": "attention"}, {"name": "west", "accelerator": "sima", "role": "experts"}]
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
    "two with both sides": {"batch": BATCH | {"lanes": 2}, "islands": [ISLAND | {"workers": 2}]},
    "apart": {"pipeline": "zebra", "islands": APART},
    "dense tensors come and go": {"dense": "shard", "model": {"family": "qwen3_moe", "config": WIDE}},
    "dense tensors of two workers come and go, layers run again": {
        "dense": "shard", "recompute": "layers", "precision": "bfloat16", "batch": BATCH | {"lanes": 3},
        "model": {"family": "qwen3_moe", "config": WIDE}, "islands": [ISLAND | {"workers": 2}],
    },
    "two workers own pieces that come and go, half moments": {
        "dense": "shard", "precision": "bfloat16", "batch": BATCH | {"lanes": 2}, "piece_numel": 1 << 18,
        "model": {"family": "qwen3_moe", "config": WIDE}, "islands": [ISLAND | {"workers": 2}],
        "optimizer": {"name": "adamw", "lr": 1e-3, "state": "bfloat16"},
    },
    "two workers own pieces": {
        "piece_numel": 1 << 16, "batch": BATCH | {"lanes": 2}, "islands": [ISLAND | {"workers": 2}],
        "model": {"family": "qwen3_moe", "config": WIDE},
    },
    "apart, layers run again, bfloat16": {
        "pipeline": "af_pipe", "recompute": "layers", "precision": "bfloat16", "islands": APART,
    },
}  # fmt: skip
IN_SHORT = ("zebra", "layers that run again", "apart", "dense tensors of two workers come and go, layers run again")


def peaks_of(changes: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """By rank."""
    build.built()
    environment = {**os.environ, **accelerators.offer(folder), "SIMDEV_VENDOR": "sima", "OMP_NUM_THREADS": "1"}
    environment["SIMDEV_SYNCHRONISES"] = "1"  # else tensors live until somebody waits for the device
    values: dict[str, Any] = {
        "family": "qwen3_moe", "model": {"family": "qwen3_moe", "config": CONFIG}, "batch": BATCH,
        "data": {"text": "stdlib", "sequence_length": 256}, "islands": [ISLAND],
    } | changes  # fmt: skip
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    num_workers = sum(island.get("workers", 1) for island in values["islands"])
    words = [sys.executable, "-m", "tests.device_peaks", "sima", json.dumps(values)]
    workers = []
    for rank in range(num_workers):
        given = [*words, str(rank), str(store.port)]
        pipe = subprocess.PIPE
        workers.append(subprocess.Popen(given, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True))
    try:
        told = [worker.communicate(timeout=300) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert all(worker.returncode == 0 for worker in workers), [errors for _, errors in told]
    return [json.loads(output.splitlines()[-1]) for output, _ in told]


@pytest.mark.parametrize(
    "name", [name if name in IN_SHORT else pytest.param(name, marks=pytest.mark.slow) for name in JOBS]
)
def test_a_worker_takes_what_was_planned(name: str, tmp_path: Path) -> None:
    for found in peaks_of(JOBS[name], tmp_path):
        assert found["planned"] == pytest.approx(found["measured"], rel=0.05), found
        assert found["always"] == pytest.approx(found["between"], rel=0.05), found
