"""Forms of attention, asked by computing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dougong.deadlines import DEADLINES
from dougong.fingerprint import attention
from dougong.fingerprint.bench import Bench
from torch import Tensor

CPU = torch.device("cpu")


@pytest.mark.parametrize("form", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forms_of_the_processor_are_deterministic(form: str, dtype: torch.dtype) -> None:
    answer = attention.ask_attention(form, CPU, dtype, 33, times=3)
    assert answer == attention.AttentionAnswer(form, True, True, "", answer.bits, 3) and len(answer.bits) == 16
    assert attention.is_deterministic(form, CPU, dtype, 33, times=2)


def test_a_form_that_does_not_run_says_why() -> None:
    answer = attention.ask_attention("flex", CPU, torch.float32, 128, times=2)  # no backward on a processor
    assert not answer.runs and not answer.is_deterministic and answer.words


def test_a_name_that_is_no_form_is_refused() -> None:
    with pytest.raises(ValueError, match="known forms are flash, sdpa, flex, eager"):
        attention.attention_of("quick")


def test_eager_is_the_definition() -> None:
    q, k, v = (torch.randn(1, 2, 9, 8, dtype=torch.float64) for _ in range(3))
    torch.testing.assert_close(attention.eager(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True))


class _Counting(torch.autograd.Function):
    """A backward that gives another sum the second time."""

    calls = 0

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q + k + v

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> Any:
        _Counting.calls += 1
        return dout, dout, dout * (1 + 1e-6 * _Counting.calls)


def test_other_bits_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "eager", _Counting.apply)
    answer = attention.ask_attention("eager", CPU, torch.float32, 9, times=5)
    assert answer.runs and not answer.is_deterministic and "repetition 2 of 5" in answer.words


def test_the_first_form_that_is_sound_is_the_last_that_is_asked() -> None:
    size = attention.AttentionSize(33, 16, is_grouped=True)
    answers = attention.first_sound(("flex", "flash", "sdpa", "eager"), Bench(CPU), torch.float32, size)
    assert [answer.form for answer in answers] == ["flex", "flash", "sdpa"]
    assert [answer.is_deterministic for answer in answers] == [False, False, True]
    assert all(answer.words for answer in answers[:2])


def test_a_processor_is_asked_as_often_as_a_time_allows_and_a_device_as_often_as_it_is_due() -> None:
    assert attention.repeats_on(torch.device("cuda")).limit_s == math.inf
    assert attention.repeats_on(CPU).limit_s == DEADLINES.attention_probe_s
    long = attention.AttentionSize(1 << 17)
    assert attention.probed_size(torch.device("cuda"), long) == long
    assert attention.probed_size(CPU, long).tokens == 512


def test_grouped_heads_are_computed_alike() -> None:
    q, k, v = (torch.randn(1, n, 9, 8, dtype=torch.float64) for n in (4, 2, 2))
    torch.testing.assert_close(attention.eager(q, k, v), attention.attention_of("sdpa")(q, k, v))
