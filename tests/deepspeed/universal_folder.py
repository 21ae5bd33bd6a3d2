"""Folders in the form of DeepSpeed's universal checkpoints, made of a state that is known."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from dougong.checkpoint.huggingface import Names
from torch import Tensor

State = dict[tuple[str, str], Tensor]
"""(group, logical name) -> values; "model", "exp_avg" and "exp_avg_sq"."""
FILES = {"fp32": "model", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}


def live_parameters(names: Names, state: State) -> dict[str, dict[str, Tensor]]:
    """As transformers 5 has them: the experts of a layer are one tensor."""
    found: dict[str, dict[str, Tensor]] = {}
    described = names.describe()
    for name in described.dense:
        found[name] = {file: state[group, name] for file, group in FILES.items()}
    for name, (rows, *_) in described.experts.items():
        found[name] = {
            file: torch.stack([state[group, f"{name}[{row}]"] for row in range(rows)]) for file, group in FILES.items()
        }
    return found


def older_parameters(names: Names, state: State) -> dict[str, dict[str, Tensor]]:
    """As models of transformers 4 have them: one module for each expert, under the names of the family's files."""
    found: dict[str, dict[str, Tensor]] = {}
    for logical, _ in names.tensors():
        for file, group in FILES.items():
            for piece, values in names.to_disk(logical, state[group, logical]):
                assert piece.row is None, "a family whose files keep experts apart"
                found.setdefault(piece.name, {})[file] = values.clone()
    return found


def write(folder: Path, parameters: dict[str, dict[str, Tensor]], stage: int = 3, step: int = 7) -> Path:
    """`stage`: of ZeRO. Of 3 tensors are flat, and what shape they had stands in the model's states; of 1 and 2 they
    have their shapes, and a count of updates each."""
    for name, tensors in parameters.items():
        place = folder / "zero" / name
        place.mkdir(parents=True)
        for file, tensor in tensors.items():
            form: Any = tensor.reshape(-1) if stage == 3 else {"param": tensor, "cat_dim": 0}
            torch.save(form, place / f"{file}.pt")
        if stage != 3:
            torch.save(torch.tensor(float(step)), place / "step.pt")
    shapes = OrderedDict((name, tensors["fp32"].shape) for name, tensors in parameters.items())
    states = {"global_steps": step, "skipped_steps": 2 if stage == 3 else 0, "param_shapes": [shapes], "module": {}}
    prefix = "zero_pp_rank_0_" if stage == 3 else ""
    torch.save(states, folder / f"{prefix}mp_rank_00_model_states.pt")
    return folder
