"""Random numbers that are drawn again, and draws that disturb nobody."""

from __future__ import annotations

import pytest
import torch
from dougong.parallel.segments.chance import RandomState, chance_undisturbed


def test_what_is_put_back_draws_the_same_again() -> None:
    state = RandomState.now()
    first = torch.rand(5)
    assert not torch.equal(first, torch.rand(5))
    state.put_back()
    assert torch.equal(first, torch.rand(5)) and state.device is None


@pytest.mark.parametrize("fails", [False, True])
def test_draws_inside_leave_no_trace_also_after_an_error(fails: bool) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    try:
        with chance_undisturbed():
            torch.rand(7)
            if fails:
                raise ValueError
    except ValueError:
        pass
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.gpu
def test_a_device_s_generator_is_taken_along() -> None:
    device = torch.device("cuda")
    state = RandomState.now(device)
    first = torch.rand(5), torch.rand(5, device=device)
    state.put_back()
    again = torch.rand(5), torch.rand(5, device=device)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
