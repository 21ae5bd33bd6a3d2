"""Each form of attention is tried by itself: right, with fixed bits, or not here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dougong.accelerators.cpu import Cpu
from dougong.conform.check import CPU, Bed, outcome_of
from dougong.conform.operators import attention
from dougong.conform.operators.attention import attention_checks
from dougong.conform.record import CheckOutcome
from dougong.fingerprint.attention import AttentionAnswer, eager
from dougong.models.library.attention_forms import FORMS
from torch import Tensor

BED = Bed(Cpu(), CPU, Path())


class BesideBed(Bed):
    """A processor that is asked as a device is."""

    has_streams = True  # type: ignore[assignment]


def outcomes(bed: Bed = BED) -> dict[str, CheckOutcome]:
    found = [outcome_of(check, bed) for check in attention_checks()]
    return {outcome.name.removeprefix("attention by "): outcome for outcome in found}


def test_every_form_is_reported_by_itself() -> None:
    found = outcomes()
    assert tuple(found) == tuple(FORMS)
    assert {name: one.grade for name, one in found.items()} == {
        "flash": "not run", "sdpa": "sound", "flex": "not run", "eager": "sound",
    }  # fmt: skip
    assert found["flex"].remarks == ("torch's flexible attention has no backward on processors",)
    assert found["flash"].remarks == ("flash_attn has no kernels for processors",)
    sdpa, plain = found["sdpa"].operator, found["eager"].operator
    assert sdpa is not None and plain is not None
    assert sdpa.deterministic and sdpa.speed is not None and plain.speed is None
    told = {(one.dtype, one.direction) for one in sdpa.deviations}
    assert told == {(dtype, way) for dtype in ("float32", "bfloat16") for way in ("forward", "backward")}


def test_a_form_with_wrong_values_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return eager(q, k, v) * 1.1

    monkeypatch.setattr(attention, "attention_of", lambda form: wrong if form == "sdpa" else eager)
    found = outcomes()
    assert found["eager"].grade == "sound"
    assert found["sdpa"].grade == "unsound" and "float32 forward: error 1.0e-01" in found["sdpa"].words[0]


@pytest.mark.parametrize(("form", "grade"), [("flex", "sound"), ("sdpa", "unsound")])
def test_bits_that_race_are_a_fault_of_a_form_that_nobody_chose(
    monkeypatch: pytest.MonkeyPatch, form: str, grade: str
) -> None:
    """`auto` passes over the others."""
    real = attention.ask

    def asked(bench, name, dtype, size, repeats):  # type: ignore[no-untyped-def]
        if size.tokens == 1024:
            races = name == form
            return AttentionAnswer(name, True, not races, "other bits at repetition 3 of 20" if races else "")
        return real(bench, "eager", dtype, size, repeats)

    monkeypatch.setattr(attention, "ask", asked)
    monkeypatch.setattr(attention, "attention_of", lambda name: eager)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: None)
    found = outcomes(BesideBed(Cpu(), CPU, Path()))
    said = (*found[form].words, *found[form].remarks)
    assert found[form].grade == grade and any("at 1024 tokens: other bits at repetition 3" in text for text in said)
    assert ("passes over it" in str(said)) == (form == "flex")
    facts = found[form].operator
    assert facts is not None and facts.deterministic is False
    assert all(one.grade == "sound" for name, one in found.items() if name != form)
