"""Where a live parameter lies on disk, found by asking; the answers here are made up, of every shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from dougong.checkpoint.parameters import dense_on_disk, expert_on_disk, refuse_shared, stored_dtype
from dougong.errors import ModelError
from dougong.models.library.conversion import Reading
from torch import Tensor

Revert = Callable[[Tensor], dict[str, Tensor]]
WEIGHT = torch.empty(6, 4, 5, device="meta")


class Family:
    """A family that writes what `revert` says, and reads everything back as `live` by one converter."""

    def __init__(self, revert: Revert, live: str = "m.0.experts.up") -> None:
        self._revert, self._live, self._converter = revert, live, object()

    def revert(self, live: str, tensor: Tensor) -> dict[str, Tensor]:
        return self._revert(tensor)

    def joined(self, live: str, state: Mapping[str, Tensor]) -> None:
        """Nothing is."""

    def reading(self, disk: str) -> Reading:
        return Reading(self._live, self._converter, "pattern")


def one_tensor_each(weight: Tensor) -> dict[str, Tensor]:
    return {f"m.0.experts.{e}.w1": weight[e] for e in range(len(weight))}


def two_tensors_each(weight: Tensor) -> dict[str, Tensor]:
    return {f"m.0.experts.{e}.{half}": weight[e][:2] for e in range(len(weight)) for half in ("gate", "up")}


def fused_and_turned(weight: Tensor) -> dict[str, Tensor]:
    return {"m.0.experts.w": weight.transpose(1, 2)}


def counted_from_one(weight: Tensor) -> dict[str, Tensor]:
    return {f"m.0.experts.{e + 1}.w": weight[e] for e in range(len(weight))}


def summed(weight: Tensor) -> dict[str, Tensor]:
    return {"m.0.experts.w": weight.sum(0)}


def one_name_too_many(weight: Tensor) -> dict[str, Tensor]:
    more = {"m.0.extra": weight[0]} if len(weight) > 1 else {}
    return one_tensor_each(weight) | more


def test_a_tensor_for_each_expert_is_told_from_the_layers_number() -> None:
    """The layer's number is 0 as well; only the expert's runs."""
    parameter = expert_on_disk(Family(one_tensor_each), "m.0.experts.up", WEIGHT)  # type: ignore[arg-type]
    (piece,) = parameter.pieces(5)
    assert (piece.name, piece.row, piece.shape) == ("m.0.experts.5.w1", None, (4, 5))
    assert (parameter.rows, parameter.shape, parameter.fused) == (6, (4, 5), [])


def test_an_expert_may_be_several_tensors() -> None:
    parameter = expert_on_disk(Family(two_tensors_each), "m.0.experts.up", WEIGHT)  # type: ignore[arg-type]
    assert [piece.name for piece in parameter.pieces(3)] == ["m.0.experts.3.gate", "m.0.experts.3.up"]
    assert {piece.shape for piece in parameter.pieces(3)} == {(2, 5)}


def test_an_expert_may_be_a_row() -> None:
    parameter = expert_on_disk(Family(fused_and_turned), "m.0.experts.up", WEIGHT)  # type: ignore[arg-type]
    (piece,) = parameter.pieces(2)
    assert (piece.name, piece.row, piece.shape, piece.disk.shape) == ("m.0.experts.w", 2, (5, 4), (6, 5, 4))
    assert [disk.name for disk in parameter.fused] == ["m.0.experts.w"]


@pytest.mark.parametrize(
    ("revert", "message"),
    [
        (counted_from_one, r"on disk m\.0\.experts\.1\.w is neither one expert's nor has experts' rows"),
        (summed, "neither one expert's nor has experts' rows"),
        (one_name_too_many, "its experts' names on disk follow no pattern"),
    ],
)
def test_what_has_no_owner_is_refused(revert: Revert, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        expert_on_disk(Family(revert), "m.0.experts.up", WEIGHT)  # type: ignore[arg-type]


def test_what_would_be_read_as_another_tensor_is_refused() -> None:
    family = Family(one_tensor_each, live="m.1.experts.up")
    with pytest.raises(ModelError, match=r"would not read back what it writes: m\.0\.experts\.0\.w1 as m\.1\.experts"):
        expert_on_disk(family, "m.0.experts.up", WEIGHT)  # type: ignore[arg-type]


def test_two_live_tensors_in_one_on_disk_are_refused() -> None:
    tensor = torch.empty(3, dtype=torch.int64)
    parameters = [
        dense_on_disk(Family(lambda t: {"shared": t}, live), live, {live: tensor})  # type: ignore[arg-type]
        for live in ("a", "b")
    ]
    assert parameters[0].pieces(None)[0].disk.dtype == "I64"
    refuse_shared(parameters[:1])
    with pytest.raises(ModelError, match="shared: on disk it mixes a and b"):
        refuse_shared(parameters)


def test_floating_point_is_stored_as_float32() -> None:
    assert {stored_dtype(dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16)} == {"F32"}
    assert (stored_dtype(torch.uint8), stored_dtype(torch.bool)) == ("U8", "BOOL")
