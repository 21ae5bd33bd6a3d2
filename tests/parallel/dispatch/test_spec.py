"""What messages must hold, and what is said when they do not."""

from __future__ import annotations

import pytest
import torch
from dougong.errors import LaunchError
from dougong.parallel.dispatch.spec import ANY_DTYPE, Delivery, DispatchSpec, PartSpec
from dougong.parallel.schedules.operation import MessageKind

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("shape", "dtype", "part", "fits"),
    [
        ((2, 3), torch.float32, torch.zeros(2, 3), True),
        ((2, 3), torch.float32, torch.zeros(3, 2), False),
        ((2, 3), torch.float32, torch.zeros(2, 3, dtype=torch.bfloat16), False),
        ((2,), ANY_DTYPE, torch.zeros(2, dtype=torch.bfloat16), True),
        ((0, 3), torch.float32, torch.zeros(0), True),  # without a value, any shape
        ((0, 3), torch.float32, torch.zeros(1, 3), False),
    ],
)
def test_a_part_fits_its_shape_and_dtype(
    shape: tuple[int, ...], dtype: torch.dtype | None, part: torch.Tensor, fits: bool
) -> None:
    assert PartSpec(shape, dtype).fits(part) is fits


def test_the_weights_of_rows_travel_once() -> None:
    at_attention = DispatchSpec(4, torch.float32, CPU)
    at_experts = DispatchSpec(4, torch.float32, CPU, "at_experts")
    for spec, counts in ((at_attention, (3, 1, 2, 1)), (at_experts, (4, 1, 1, 2))):
        parts = (
            spec.rows(spec.headers(2, 3), 5, 7),
            spec.outputs(5, 7),
            spec.output_gradients(5, 7),
            spec.row_gradients(5, 7),
        )
        assert tuple(map(len, parts)) == counts
    assert at_attention.outputs(5, 7)[0].shape == (7, 4) and at_experts.outputs(5, 7)[0].shape == (5, 4)


def test_a_refusal_names_both_ends_the_place_and_both_values() -> None:
    delivery = Delivery(MessageKind.OUTPUTS, (1, 2), sender=3, receiver=0)
    with pytest.raises(LaunchError) as refused:
        delivery.check([torch.zeros(2, 3)], [PartSpec((4, 3), torch.float32)], ("a.experts", "b.experts"))
    assert str(refused.value).startswith(
        "worker 3 sent worker 0 (2, 3) torch.float32 as expert outputs of site 1 (b.experts), micro-batch 2, where "
        "(4, 3) torch.float32 is due; "
    )
