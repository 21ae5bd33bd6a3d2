"""torch's strict switch: refusals by name, exemptions with reasons."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from dougong.accelerators.determinism import EXEMPTIONS, exempt_form, refuse_unordered, refused_operator
from dougong.errors import ModelError
from tests.families import FAMILIES


def refusal() -> RuntimeError:
    with pytest.raises(RuntimeError) as raised:
        torch.ones(3).put_(torch.tensor([0]), torch.ones(1))
    return raised.value


def test_the_refused_operator_is_read_from_torch_s_own_words(strict: None) -> None:
    assert refused_operator(refusal()) == "put_"
    assert refused_operator(RuntimeError("something else")) is None
    assert refused_operator(ValueError("put_ does not have a deterministic implementation")) is None


def test_a_refusal_says_where_and_what_to_do(strict: None) -> None:
    words = r"layers\.3: torch's operator put_ has no .*determinism: off.* model\.attention"
    with pytest.raises(ModelError, match=words):
        refuse_unordered(refusal(), "layers.3")
    refuse_unordered(RuntimeError("another"), "layers.3")


def test_every_exemption_has_a_reason_and_tested_families() -> None:
    for exemption in EXEMPTIONS:
        assert len(exemption.reason) > 40 and set(exemption.families) <= set(FAMILIES)
        assert exemption.families


def test_only_sums_of_several_rows_are_exempt() -> None:
    (cumsum,) = (exemption for exemption in EXEMPTIONS if exemption.operator == "cumsum")
    assert cumsum.holds(torch.ones(2, 3), 1)
    assert not cumsum.holds(torch.ones(3), 0) and not cumsum.holds(torch.ones(1, 3), 1)


def test_an_exempt_operator_computes_by_its_own_kernel_and_strictness_is_back_after_it(strict: None) -> None:
    run = exempt_form(EXEMPTIONS[0])
    for values in (torch.randn(3, 5), torch.arange(6).view(2, 3), torch.randn(2, 3, dtype=torch.bfloat16)):
        found, due = run(values, -1), values.cumsum(-1)
        assert torch.equal(found, due) and found.dtype == due.dtype
    assert run(torch.ones(2, 2), 0, dtype=torch.float64).dtype is torch.float64
    assert not torch.is_deterministic_algorithms_warn_only_enabled() and torch.are_deterministic_algorithms_enabled()


REGISTERED = """
import dataclasses, torch
from dougong.accelerators.determinism import EXEMPTIONS, apply_exemptions
def asked(*arguments):
    print("asked")
    return True
own = [dataclasses.replace(exemption, device="cpu", holds=asked) for exemption in EXEMPTIONS]
apply_exemptions("cpu", own)
apply_exemptions("cpu", own)
leaf = torch.randn(3, 5, requires_grad=True)
leaf.cumsum(1).sum().backward()
print(leaf.grad[0].tolist())
"""


def test_an_exempt_operator_is_torch_s_own_to_whoever_calls_it() -> None:
    words = [sys.executable, "-W", "error", "-c", REGISTERED]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == "asked" and lines[-1] == "[5.0, 4.0, 3.0, 2.0, 1.0]" and not ended.stderr
