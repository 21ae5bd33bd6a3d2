"""A file of a DeepSpeed checkpoint is believed only when its tensor can be trained on."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path

import pytest
import torch
from dougong.deepspeed.universal_files import Misfit, load, refuse_form, refuse_values, updates_in

SOUND = (
    torch.tensor(1.0),
    torch.zeros(0),
    torch.zeros(1).expand(4, 4),
    torch.ones(2, 3, dtype=torch.bfloat16),
    torch.nn.Parameter(torch.ones(2)),
)


@pytest.mark.parametrize("tensor", SOUND, ids=str)
def test_sound_tensors_are_taken(tensor: torch.Tensor) -> None:
    refuse_form("here", tensor, is_floating=True)
    refuse_values("here", tensor, 0.0)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.tensor(math.nan), "here: holds nan at [], which is not finite in float32; convert"),
        (torch.tensor([[1.0, 2.0], [3.0, math.inf]]).half(), "here: holds inf at [1, 1], which is not finite"),
        (
            torch.tensor([0.0, 1e300, -1e300], dtype=torch.float64),
            "here: holds 1e+300 at [1] and 1 more like it, which is not finite",
        ),
        (
            torch.tensor([1.0, -2.0, math.nan]),
            "here: holds -2 at [1] and 1 more like it, which is less than 0; convert",
        ),
    ],
)
def test_the_first_bad_value_is_named_with_its_place(tensor: torch.Tensor, said: str) -> None:
    with pytest.raises(Misfit) as caught:
        refuse_values("here", tensor, 0.0)
    assert str(caught.value).startswith(said)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.exit_status == 2


def test_whole_numbers_are_taken_where_the_model_has_them() -> None:
    refuse_form("here", torch.ones(2, dtype=torch.int64), is_floating=False)
    with pytest.raises(Misfit, match="here: holds torch.int64, and not float32"):
        refuse_form("here", torch.ones(2, dtype=torch.int64), is_floating=True)


@pytest.mark.parametrize("count", [0, 7, 3.0, torch.tensor(7.0), torch.tensor([7])], ids=str)
def test_a_count_is_a_whole_number_to_the_step(count: object, tmp_path: Path) -> None:
    torch.save(count, tmp_path / "step.pt")
    assert updates_in(tmp_path / "step.pt", 7) == int(count)  # type: ignore[call-overload]


def test_a_pipe_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "step.pt")
    with pytest.raises(Misfit, match="step.pt: is a pipe, and no file; convert the checkpoint again"):
        load(tmp_path / "step.pt")
