"""Golden values: a change of any bit is noticed, and made on purpose (`python -m tests.golden.record`)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.golden.record import CASES, compute, file_of

RENEW = "if the arithmetic was changed on purpose: python -m tests.golden.record, and raise recipe.ARITHMETIC"


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_bits_are_those_that_were_recorded(device: str) -> None:
    """On a machine of a recorded class, every bit of losses, weights and moments; on another one, the losses to 1e-5
    in float32 and 1 % in bfloat16 (other kernels round elsewhere)."""
    file = file_of(device)
    assert file.is_file(), f"nothing is recorded for {device}: python -m tests.golden.record --device {device}"
    golden: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    here = compute(device)
    known = golden.get(here["class"], {"values": {}})["values"]
    for case, (_, precision, _) in CASES.items():
        ours = here["values"][case]
        if case in known:
            assert ours == known[case], f"{case}: {RENEW}"
            continue
        tolerance = 1e-5 if precision == "float32" else 1e-2
        for theirs in (other["values"][case] for other in golden.values() if case in other["values"]):
            expected = [float.fromhex(loss) for loss in theirs["losses"]]
            assert [float.fromhex(loss) for loss in ours["losses"]] == pytest.approx(expected, rel=tolerance), RENEW
