"""An operator that runs on the host unasked is told, once, by name."""

from __future__ import annotations

import warnings

import pytest
from dougong.training.start.host_fallback import fallbacks_told, operator_on_host

NPU = (
    "CAUTION: The operator 'aten::histc' is not currently supported on the NPU backend and will fall back to run on "
    "the CPU. This may have performance implications. (function npu_cpu_fallback)"
)


@pytest.mark.parametrize(
    ("text", "operator"),
    [
        (NPU, "aten::histc"),
        ("Aten Op fallback from XPU to CPU happends. op: aten::nonzero.out", "aten::nonzero.out"),
        ("sima: aten::sinh has no kernel of the device and runs on the host", "aten::sinh"),
        ("an operator will fall back to run on the CPU", "an operator will fall back to run on the CPU"),
        ("torch.meshgrid: in an upcoming release, it will be required to pass the indexing argument", None),
    ],
)
def test_what_vendors_say(text: str, operator: str | None) -> None:
    assert operator_on_host(text) == operator


def test_each_operator_is_told_once_and_warnings_are_shown_as_ever() -> None:
    told: list[str] = []
    before = warnings.showwarning
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with fallbacks_told("npu", told.append):
            for text in (NPU, NPU, "something else"):
                warnings.warn(text, stacklevel=1)
    assert len(shown) == 3 and len(told) == 1 and warnings.showwarning is before
    assert told[0].startswith("aten::histc has no kernel on npu and runs on the host, each time with a copy")
