"""Native or composed, by what is called. What runs on the host is tried on a simulated device (`test_defects.py`)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dougong.conform.forms import Observed, form_of, observe

CPU = torch.device("cpu")


def test_calls_of_forward_and_backward_are_seen() -> None:
    x = torch.ones(3, 4, requires_grad=True)
    seen = observe(lambda: F.layer_norm(x, (4,)).sum().backward(), CPU)
    assert {"aten::native_layer_norm", "aten::native_layer_norm_backward", "aten::sum"} <= set(seen.calls)
    assert not seen.on_host


@pytest.mark.parametrize(
    ("judged", "called", "form"),
    [
        ("aten::mm", "aten::mm", "native"),
        ("aten::_scaled_dot_product", "aten::_scaled_dot_product_flash_attention_for_cpu", "native"),
        ("aten::_fused_rms_norm", "aten::mean", "composed"),
        ("aten::embedding", "aten::embedding", "composed"),
    ],
)
def test_forms(judged: str, called: str, form: str) -> None:
    assert form_of(judged, Observed({called: called}, False), CPU) == form


def test_what_runs_on_the_host_is_missing() -> None:
    assert form_of("aten::mm", Observed({"aten::mm": "aten::mm"}, True), CPU) == "missing"
