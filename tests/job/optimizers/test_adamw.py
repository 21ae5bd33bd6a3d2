"""AdamW's declaration is what torch keeps and the job file says."""

from __future__ import annotations

import torch
from dougong.job.optimizers.adamw import ADAMW, AdamW


def test_its_state_is_what_torch_keeps_for_a_parameter() -> None:
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    parameter.grad = torch.ones(3, 2)
    optimizer.step()
    state = optimizer.state[parameter]
    assert set(state) == {kind.name for kind in ADAMW.state_kinds}
    for kind in ADAMW.state_kinds:
        assert state[kind.name].dtype == torch.float32
        assert (state[kind.name].shape == parameter.shape) is kind.like_parameter
    assert ADAMW.bytes_per_parameter(AdamW()) == sum(state[name][0, 0].nbytes for name in ADAMW.kinds_like_parameters)


def test_its_keys() -> None:
    assert set(AdamW.model_fields) == {
        "name",
        "lr",
        "weight_decay",
        "betas",
        "eps",
        "clip_norm",
        "device",
        "state",
        "groups",
    }
    assert not AdamW().has_half_state and AdamW(state="bfloat16").has_half_state
    assert ADAMW.bytes_per_parameter(AdamW(state="bfloat16")) == 4
    assert ADAMW.arithmetic_of(AdamW(state="bfloat16")) != ADAMW.arithmetic_of(AdamW())
    assert not AdamW().is_on_host and AdamW(device="host").is_on_host
