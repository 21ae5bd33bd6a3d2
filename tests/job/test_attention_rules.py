"""Rules about the form of attention."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.job.load import load_job
from tests.job.refusing import refusals
from tests.launcher.jobs import write

APART = "[{name: a, accelerator: %s, role: attention}, {name: b, accelerator: %s, role: experts}]"
MODEL = "{family: qwen3_moe, config: {num_experts: 4}, attention: %s}"


@pytest.mark.parametrize(
    ("attention", "islands", "line"),
    [
        ("flex", APART % ("cpu", "cuda"), "model.attention: torch's flexible attention has no backward on processors, "
         "and island a computes attention on them; take sdpa, or auto"),
        ("flash", APART % ("cpu", "cpu"), "model.attention: flash_attn has no kernels for processors, and island a "
         "computes attention on them; take sdpa, or auto"),
        ("flash", APART % ("cuda", "cpu"), "model.attention: flash_attn computes in half precision alone; set "
         "precision: bfloat16, or take sdpa, or auto"),
    ],
)  # fmt: skip
def test_a_form_that_the_devices_or_the_precision_cannot_have_is_refused(
    tmp_path: Path, attention: str, islands: str, line: str
) -> None:
    job = write(tmp_path, model=MODEL % attention, islands=islands)
    assert line in refusals(job)


@pytest.mark.parametrize(
    ("attention", "islands"),
    [("flex", APART % ("cuda", "cpu")), ("auto", APART % ("cpu", "cpu")), ("eager", APART % ("cpu", "cuda"))],
)
def test_others_are_good(tmp_path: Path, attention: str, islands: str) -> None:
    assert load_job(write(tmp_path, model=MODEL % attention, islands=islands)).job.model.attention == attention
