"""Takes the fingerprint of an opened device: every probe, twice; attention's more often."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dougong.fingerprint.attention import (
    TIMES,
    AttentionAnswer,
    AttentionSize,
    first_sound,
    probed_size,
)
from dougong.fingerprint.bench import DTYPES, Bench, Probe, measure
from dougong.fingerprint.device import describe
from dougong.fingerprint.experts import COMPOSED, experts_probe, fused_form
from dougong.fingerprint.general import general_probes
from dougong.fingerprint.host_update import host_probes
from dougong.fingerprint.job_shapes import shaped_probes
from dougong.fingerprint.record import (
    ATTENTION,
    CANNOT_RUN,
    EXPERTS,
    PRECISIONS,
    Fingerprint,
    JobShapes,
    question_of,
)
from dougong.ops.experts.base import ExpertOp, identity_of


@dataclass
class _Answers:
    """What comes together: hashes by probe, what explains them, and forms."""

    probes: dict[str, str] = field(default_factory=dict)
    explaining: dict[str, str] = field(default_factory=dict)
    forms: dict[str, str] = field(default_factory=dict)


def take_fingerprint(
    device: torch.device,
    precisions: tuple[str, ...] = PRECISIONS,
    shapes: JobShapes | None = None,
    variables: Mapping[str, str] | None = None,
    fused: Iterable[ExpertOp] = (),
    host_adam: Any = None,
) -> Fingerprint:
    """Run every probe on `device` (opened by its accelerator) and hash what comes out.

    General probes run in each of `precisions`, those of `shapes` in the last of them. `variables`
    are recorded as part of the environment. `fused`: the forms of experts that the accelerator has.
    `host_adam`: DeepSpeed's `cpu_adam`, where the update is the machine's.
    """
    bench, answers = Bench(device), _Answers()
    for name, probe in general_probes(bench, precisions):
        answers.probes[name] = _answer(probe)
    if shapes is not None:
        for name, probe in shaped_probes(bench, shapes, precisions[-1]):
            answers.probes[name] = _answer(probe)
        _look_at_attention(answers, bench, shapes, DTYPES[precisions[-1]])
        _look_at_experts(answers, bench, shapes, DTYPES[precisions[-1]], fused)
    if host_adam is not None:
        for name, probe in host_probes(host_adam):
            answers.probes[name] = _answer(probe)
    environment = describe(device) | answers.explaining | dict(variables or {})
    question = question_of(precisions, shapes, host_adam is not None)
    return Fingerprint(answers.probes, question, environment, forms=answers.forms)


def _look_at_attention(
    answers: _Answers, bench: Bench, shapes: JobShapes, dtype: torch.dtype
) -> None:
    is_grouped = shapes.kv_heads not in (0, shapes.heads)
    size = AttentionSize(shapes.sequence, shapes.head_size, is_grouped)
    probed = probed_size(bench.device, size)
    *others, last = first_sound(shapes.attention, bench, dtype, probed)
    for other in others:
        answers.explaining[f"attention by {other.form}"] = other.words
    of_how_many = "" if probed == size else f" of {size.tokens}"
    name = f"job: attention by {last.form}, {probed.tokens}{of_how_many} x {size.head_size}"
    answers.probes[name] = last.bits
    answers.forms[ATTENTION] = last.form
    if last.is_deterministic and last.times < TIMES:
        answers.explaining["attention was computed"] = _fewer_times(last)


def _fewer_times(answer: AttentionAnswer) -> str:
    return f"{answer.times} times in place of {TIMES}, to begin soon"


def _look_at_experts(
    answers: _Answers,
    bench: Bench,
    shapes: JobShapes,
    dtype: torch.dtype,
    fused: Iterable[ExpertOp],
) -> None:
    op = fused_form(fused, bench, shapes, dtype)
    answers.forms[EXPERTS] = COMPOSED if op is None else identity_of(op)
    if op is not None:
        probe = experts_probe(op, bench, shapes, dtype)
        answers.probes[f"job: experts by {identity_of(op)}"] = _answer(probe)


def _answer(probe: Probe) -> str:
    """The hash of its bits, or why there is none: whether that matters is not decided here."""
    try:
        return measure(probe)
    except RuntimeError as error:  # a kernel without this precision, a device without the memory
        words = str(error).strip().splitlines() or [""]
        return f"{CANNOT_RUN}{type(error).__name__}: {words[0]}"
