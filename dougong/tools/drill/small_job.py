"""The job that `dougong drill` rehearses faults on where no run is named: a small qwen3_moe, one
worker of each role, on a text that every Python has."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dougong.job.schema import Job
from dougong.tools.drill.schedule import PlannedFault

STEPS = 30
WORKERS = ("attention/0", "experts/0", "both/0")
_MODEL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 256,
    "max_position_embeddings": 128,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}
_MOST_RESTARTS = 1000


def small_job(
    planned: Sequence[PlannedFault] = (), *, is_audited: bool = False, **changes: Any
) -> dict[str, Any]:
    """As a job file has it. `planned`: the faults that the job file can order itself. `is_audited`:
    every step is computed twice before it counts."""
    audit = {"audit": "all"} if is_audited else {}
    values: dict[str, Any] = {
        "job": "drill",
        "model": {"family": "qwen3_moe", "config": dict(_MODEL)},
        "data": {"text": str(Path(argparse.__file__)), "sequence_length": 64},
        "batch": {"lanes": 4, "microbatches": 2, "microbatch_size": 1},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "steps": STEPS,
        "seed": 7,
        "checkpoint": {"every": 10},
        "fault": {"max_restarts": _MOST_RESTARTS, **audit},
        "islands": islands(),
        "drill": [_drill(fault) for fault in planned if fault.at_step is not None],
    }
    return values | changes


def islands() -> list[dict[str, Any]]:
    """One for each role, as a job file has them."""
    roles = [name.partition("/")[0] for name in WORKERS]
    return [{"name": role, "role": role, "accelerator": "cpu", "workers": 1} for role in roles]


def _drill(fault: PlannedFault) -> dict[str, Any]:
    values: dict[str, Any] = {"at_step": fault.at_step, "fault": fault.fault}
    more = {"on": fault.worker or None, "for_s": fault.for_s}
    return values | {key: value for key, value in more.items() if value is not None}


def checked(values: dict[str, Any]) -> Job:
    """The job of such values."""
    return Job.model_validate(values)
