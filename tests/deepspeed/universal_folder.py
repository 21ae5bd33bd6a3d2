"""Folders in the form of DeepSpeed's universal checkpoints, made of a state that is known."""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from dougong.checkpoint.huggingface import Names
from tests.checkpoint.saving import state_of
from torch import Tensor

State = dict[tuple[str, str], Tensor]
"""(group, logical name) -> values; "model", "exp_avg" and "exp_avg_sq"."""
FILES = {"fp32": "model", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}


def trained_state(model: Any, names: Names) -> State:
    """Random values that an optimizer may have: means of squares are not negative."""
    found = state_of(model, names)
    return {key: value.abs() if key[0] == "exp_avg_sq" else value for key, value in found.items()}


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


def _changed(file: Path, change: Callable[[Tensor], Tensor]) -> None:
    found = torch.load(file)
    torch.save({**found, "param": change(found["param"])}, file)


def _first(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return change


def _replaced(file: Path, make: Callable[[Path], object]) -> None:
    file.unlink()
    make(file)


def _count(file: Path, value: float) -> None:
    torch.save(torch.tensor(value), file)


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "nan": ("fp32.pt", lambda file: _changed(file, _first(float("nan"))), r"holds nan at \[0\], which is not finite"),
    "inf": ("exp_avg.pt", lambda file: _changed(file, _first(float("-inf"))), r"holds -inf at \[0\], which is not fin"),
    "beyond float32": (
        "fp32.pt",
        lambda file: _changed(file, lambda tensor: tensor.double() * 1e300),
        r"holds -?[\d.]+e\+\d+ at \[0\] and 63 more like it, which is not finite in float32",
    ),
    "negative square": (
        "exp_avg_sq.pt",
        lambda file: _changed(file, _first(-0.5)),
        r"holds -0.5 at \[0\], which is less than 0",
    ),
    "whole numbers": ("fp32.pt", lambda file: _changed(file, Tensor.int), "holds torch.int32, and not float32"),
    "sparse": (
        "fp32.pt",
        lambda file: _changed(file, Tensor.to_sparse),
        "holds a tensor of layout torch.sparse_coo, and not a dense one",
    ),
    "no values": (
        "exp_avg.pt",
        lambda file: _changed(file, lambda tensor: tensor.to("meta")),
        "holds a tensor of device meta, which has no values",
    ),
    "other shape": (
        "exp_avg.pt",
        lambda file: _changed(file, lambda tensor: tensor[:3].clone()),
        r"has shape \[3\], and the model \[64\]",
    ),
    "negative count": (
        "step.pt",
        lambda file: _count(file, -3.0),
        "says -3 updates, and not a whole number from 0",
    ),
    "half a count": ("step.pt", lambda file: _count(file, 6.5), "says 6.5 updates, and not a whole number from 0 to 7"),
    "large count": ("step.pt", lambda file: _count(file, 1e30), r"says 1e\+30 updates, and not a whole number from 0"),
    "count after the step": (
        "step.pt",
        lambda file: _count(file, 8.0),
        "says 8 updates, and not a whole number",
    ),
    "no count": ("step.pt", lambda file: _count(file, float("nan")), "says nan updates, and not a whole number from 0"),
    "counts": (
        "step.pt",
        lambda file: torch.save(torch.ones(2), file),
        "holds 2 numbers, and not one count of",
    ),
    "count in words": ("step.pt", lambda file: torch.save("seven", file), "holds no count of updates"),
    "empty": ("exp_avg.pt", lambda file: file.write_bytes(b""), r"is damaged, or no file of torch \(0 bytes\)"),
    "missing": ("exp_avg.pt", Path.unlink, "is not there"),
    "folder": ("exp_avg.pt", lambda file: _replaced(file, Path.mkdir), "is a folder, and no file"),
    "pipe": ("exp_avg_sq.pt", lambda file: _replaced(file, os.mkfifo), "is a pipe, and no file"),
    "pipe of a count": ("step.pt", lambda file: _replaced(file, os.mkfifo), "is a pipe, and no file"),
    "parameter": ("", shutil.rmtree, "is not there, and DeepSpeed has trained it"),
}
"""By kind: the file of a parameter of 64 numbers, its damage, and what is said of it."""
