"""Every form of attention that a job can name, as transformers calls it, on this device.

Legend: B sequences, N heads, M heads of keys and values, T tokens, D size of a head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from dougong.conform.check import Bed, CannotTry, Check, Result
from dougong.conform.judge import Exactness
from dougong.conform.operators.case import FLOATS, Case, Draw
from dougong.conform.operators.trial import run_case
from dougong.fingerprint.attention import (
    TIMES,
    AttentionAnswer,
    AttentionSize,
    ask,
    attention_of,
    eager,
)
from dougong.fingerprint.bench import Bench, Repeats
from dougong.job.rules import NOT_ON_PROCESSORS
from dougong.models.library.attention_forms import FORMS

GROUP = "attention"
_TOKENS, _HEAD = 65, 16
_LONG = 1024
"""Tokens at which a backward that races gives other bits in most runs (`fingerprint.attention`)."""
_CHOSEN = ("flash", "flex")
"""Forms that no family computes by unless a job asks for them: `auto` passes over one that is not
deterministic, and a job that names it is refused by the start's own probes."""


def attention_checks() -> Iterator[Check]:
    """One check for each form, the fastest first, as `model.attention: auto` tries them."""
    for form in FORMS:
        name = f"attention by {form}"
        yield Check(name, GROUP, name, partial(_try_form, form))


def _try_form(form: str, bed: Bed) -> Result:
    """Values against float64, and the same bits every time: at a small size, and where bits can
    race at a longer one."""
    why_not = NOT_ON_PROCESSORS.get(form)
    if why_not and not bed.has_streams:
        raise CannotTry(why_not)
    bench = Bench(bed.device)
    short = AttentionSize(_TOKENS, _HEAD, is_grouped=True)
    answers = {dtype: ask(bench, form, dtype, short, Repeats(2)) for dtype in FLOATS}
    dtypes = tuple(dtype for dtype, answer in answers.items() if answer.runs)
    if not dtypes:
        raise CannotTry(f"{form} does not run here: {answers[FLOATS[-1]].words}")
    result = run_case(_case(form, dtypes), bed)
    lacks = [
        f"not in {_name(dtype)}: {answers[dtype].words}" for dtype in FLOATS if dtype not in dtypes
    ]
    result = dataclasses.replace(result, remarks=(*result.remarks, *lacks))
    if not bed.has_streams:
        return result
    long = AttentionSize(_LONG)
    return _judged(
        form, result, [ask(bench, form, dtype, long, Repeats(TIMES)) for dtype in dtypes]
    )


def _case(form: str, dtypes: tuple[torch.dtype, ...]) -> Case:
    return Case(
        f"attention by {form}",
        "aten::_scaled_dot_product" if form == "sdpa" else f"attention by {form}",
        attention_of(form),
        _inputs,
        Exactness.PRODUCT,
        (0, 1, 2),
        composed=None if form == "eager" else eager,
        exact=eager,
        dtypes=dtypes,
        spread=False,
    )


def _inputs(draw: Draw) -> tuple[Tensor, ...]:
    q_BNTD = draw.values(2, 4, _TOKENS, _HEAD)
    return q_BNTD, draw.values(2, 2, _TOKENS, _HEAD), draw.values(2, 2, _TOKENS, _HEAD)


def _judged(form: str, result: Result, answers: list[AttentionAnswer]) -> Result:
    """The same, with what a longer sequence has shown."""
    told = [answer.words for answer in answers if not answer.is_deterministic]
    if not told or result.operator is None:
        return result
    facts = dataclasses.replace(
        result, operator=result.operator.model_copy(update={"deterministic": False})
    )
    texts = tuple(dict.fromkeys(f"at {_LONG} tokens: {words}" for words in told))
    if form in _CHOSEN:
        texts = tuple(f"{text}: `model.attention: auto` passes over it" for text in texts)
        return dataclasses.replace(facts, remarks=(*result.remarks, *texts))
    return dataclasses.replace(facts, words=(*result.words, *texts))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
