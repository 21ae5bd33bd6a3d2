"""Rules that tie islands to what they compute."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.job.load import load_job
from tests.job.refusing import TWO, refusals
from tests.launcher.jobs import write


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"batch": "{lanes: 1}"}, "batch.lanes: 1 lanes for 2 attention workers, and each needs one; raise "
         "batch.lanes to "
         "2 or more, or lower islands.*.workers"),
        ({"islands": TWO % (3, "attention", 1, "experts")}, "batch.lanes: 2 lanes for 3 attention workers, and "
         "each needs "
         "one; raise batch.lanes to 3 or more, or lower islands.*.workers"),
        ({"islands": TWO % (1, "attention", 5, "experts")}, "model.config.num_experts: 4 experts for 5 experts "
         "workers, "
         "and each needs one; raise model.config.num_experts to 5 or more, or lower islands.*.workers"),
        ({"islands": TWO % (1, "attention", 1, "attention")},
         "islands: no island computes experts; give one of them `role: experts` or `role: both`"),
        ({"islands": TWO % (1, "experts", 1, "experts")},
         "islands: no island computes attention; give one of them `role: attention` or `role: both`"),
        ({"islands": "[{name: a, accelerator: cpu}, {name: a, accelerator: cpu}]"},
         "islands.1.name: 'a' is also the name of islands.0; give each island its own name"),
        ({"ports": "20000-20003"}, "ports: 4 ports, and a node with one worker needs 6: 5 for each worker there, 1 for "
         "each island; widen the range"),
        ({"islands": "[{name: a, accelerator: cpu, devices: shared}]"},
         "islands.0.devices: workers of cpu share their machine, which is no device of its own; remove it"),
        ({"islands": "[{name: a, accelerator: npu, devices: shared, spares: 1}]"},
         "islands.0.spares: a: a spare holds devices of its own, and these workers share one; set spares: 0, or "
         "devices: own"),
        ({"islands": "[]"}, "islands: must not be empty (got []): groups of like devices"),
        ({"model": "{family: mixtral, config: {num_local_experts: 1}}"}, "model.config.num_local_experts: 1 "
         "experts for 2 "
         "experts workers, and each needs one; raise model.config.num_local_experts to 2 or more, or lower "
         "islands.*.workers"),
        ({"offload": "1"}, "offload: 1, but nobody computes attention apart from experts; give islands `role: "
         "attention` and `role: experts`, or remove it"),
        ({"offload": "3", "islands": TWO % (1, "attention", 2, "experts")}, "offload: 3 of 4 experts "
         "(model.config.num_experts) would leave less than one for each of 2 experts workers; lower it to 2"),
        ({"pipeline": "colocated", "islands": TWO % (1, "attention", 1, "experts")}, "pipeline: colocated is for "
         "workers that compute attention and experts, and not all are `role: both`; use zebra, af_pipe, serial "
         "or auto"),
        ({"dense": "shard", "pipeline": "serial", "batch": "{lanes: 2, microbatches: 3}"}, "dense: shard, but "
         "pipeline: serial goes through the layers again for each of 3 micro-batches, so that no layer's gradients are "
         "complete before the last one; set pipeline: zebra (or auto), or dense: copy"),
        ({"islands": "[{name: a, accelerator: cpu, emulate: {attention_ms: 1, expert_ms_per_1k_tokens: 2.5}}, "
          "{name: b, accelerator: cpu}]"}, "islands.1: b: the other islands are emulated; times would be of two kinds; "
         "give this one `emulate` too, or none"),
        ({"islands": "[{name: a, accelerator: npu, emulate: {attention_ms: 1, expert_ms_per_1k_tokens: 2.5}}]"},
         "islands.0.emulate: only cpu workers pretend, and these are npu; remove it, or use accelerator: cpu"),
        ({"offload": "-1"}, "offload: must be at least 0 (got -1): experts of every layer that workers of role "
         "attention keep beside it: a number of them; `auto`: as many as fill the time that they would wait for the "
         "experts workers, by islands.*.speed (HeterMoE, arXiv 2504.03871)"),
        ({"offload": "all"}, "offload: must be 'none' or 'auto' or a number (got 'all'); use one of them"),
        ({"drill": "[{at_step: 11, kill: east/1}]"},
         "drill.0.at_step: step 11 never begins in a job of 10 steps; lower it, or raise steps"),
        ({"drill": "[{at_step: 1, kill: east/2}]"},
         "drill.0.kill: no worker is called 'east/2'; name one of east/0, east/1, or remove the drill"),
        ({"drill": "[{at_step: 1, kill: east/0}, {at_step: 1, kill: east/0}]"},
         "drill.1: kill on east/0 is ordered for then already; remove one"),
    ],
)  # fmt: skip
def test_what_clashes_is_said_with_its_knob(tmp_path: Path, changes: dict[str, str], line: str) -> None:
    assert refusals(write(tmp_path, **changes)) == [line]


def test_auto_offload_needs_speeds_and_roles_apart(tmp_path: Path) -> None:
    rates = "speed: {attention: 2.0, experts: 1.0}"
    islands = "[{name: a, accelerator: cpu, role: attention, %s}, {name: b, accelerator: cpu, role: experts%s}%s]"
    assert load_job(write(tmp_path, offload="auto", islands=islands % (rates, f", {rates}", ""))).job.offload == "auto"
    third = f", {{name: c, accelerator: cpu, {rates}}}"
    assert refusals(write(tmp_path, offload="auto", islands=islands % (rates, "", third))) == [
        "islands.1.speed: offload: auto weighs attention against experts and needs it; paste what `dougong calibrate` "
        "says, or give offload a number",
        "islands.2.role: offload: auto needs attention and experts apart everywhere",
    ]
