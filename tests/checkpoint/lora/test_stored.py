"""What a checkpoint with adapters holds."""

from __future__ import annotations

from pathlib import Path

import torch
from dougong.checkpoint.lora.stored import stored_adapters
from dougong.ops.adapter_names import adapter_of
from tests.tuned_runs import saved


def test_adapted_tensors_and_their_halves_are_found(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    with stored_adapters(checkpoint) as stored:
        assert {name.rpartition(".")[2].partition("[")[0] for name in stored.adapted} == {
            "weight", "gate_up_proj", "down_proj"
        }  # fmt: skip
        assert not any("norm" in name or "lm_head" in name for name in stored.adapted)
        name = next(name for name in stored.adapted if name.endswith("down_proj[3]"))
        a, b = stored.read(adapter_of(name, "A")), stored.read(adapter_of(name, "B"))
        weight = stored.read(name)
        assert b.any() and stored.values["r"] == 3
        torch.testing.assert_close(stored.merged(name), weight + 2.0 * b @ a)
