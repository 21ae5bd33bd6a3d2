"""What messages hold. That nothing else is sent is in `test_dispatcher`."""

from __future__ import annotations

import torch
from dougong.parallel.dispatch.spec import DispatchSpec, Sizes
from dougong.parallel.schedules.operation import MessageKind

CPU = torch.device("cpu")
SIZES = Sizes([2, 3], [3, 4], torch.float64)


def test_the_weights_of_rows_travel_once() -> None:
    at_attention = DispatchSpec(4, torch.float32, CPU)
    at_experts = DispatchSpec(4, torch.float32, CPU, "at_experts")
    for spec, counts in ((at_attention, (2, 1, 2, 2)), (at_experts, (3, 1, 1, 2))):
        assert tuple(spec.num_parts(kind) for kind in MessageKind) == counts
        assert tuple(len(spec.rooms(kind, SIZES)) for kind in MessageKind) == counts


def test_what_goes_by_token_and_what_by_row() -> None:
    spec = DispatchSpec(4, torch.bfloat16, CPU, "at_experts")
    told = {kind: ", ".join(map(str, spec.rooms(kind, SIZES))) for kind in MessageKind}
    assert told == {
        MessageKind.ROWS: "(5, 4) torch.bfloat16, (7,) torch.int32, (7,) torch.float64",
        MessageKind.OUTPUTS: "(5, 4) torch.bfloat16",
        MessageKind.OUTPUT_GRADIENTS: "(5, 4) torch.bfloat16",
        MessageKind.ROW_GRADIENTS: "(5, 4) torch.bfloat16, (7,) torch.float32",
    }
    spec = DispatchSpec(4, torch.float32, CPU)
    assert [str(room) for room in spec.rooms(MessageKind.OUTPUTS, SIZES)] == ["(7, 4) torch.float32"]
