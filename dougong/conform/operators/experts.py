"""Every form of SwiGLU experts that a device has, against the definition in float64.

A fused form and the form of plain operators are judged by one rule, forward and backward, with rows
of NaN and rows that saturate the activation among them: what one expert is given must not reach
another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dougong.conform.check import CPU, Bed, Check, Result
from dougong.conform.forms import observe
from dougong.conform.judge import Exactness, deviance, same_bits, tolerance_of
from dougong.conform.operators.case import Draw
from dougong.conform.operators.timing import compare_speed
from dougong.conform.record import Deviation, Native, OperatorFacts
from dougong.ops.experts.base import Block, ExpertOp, Tensors
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert, TiledSwiGLU

GROUP = "experts"
HIDDEN, INNER = 64, 48
AGAIN = "outputs again, in the backward"
ROUNDINGS = 4
"""An expert's values are rounded so often on their way: two products, a product of each, a sum."""


@dataclass(frozen=True)
class Form:
    """A way to compute experts. `is_fused`: the accelerator has offered it."""

    name: str
    op: ExpertOp
    is_fused: bool = False


@dataclass(frozen=True)
class ExpertsWave:
    """Rows x [R, H] of some experts and lanes, their outputs' gradients [R, H], and weights."""

    name: str
    blocks: Sequence[Block]
    x_RH: Tensor
    dy_RH: Tensor
    tensors: Mapping[int, Tensors]

    def on(self, device: torch.device, dtype: torch.dtype) -> ExpertsWave:
        """The same wave elsewhere."""
        x_RH, dy_RH = (tensor.to(device, dtype) for tensor in (self.x_RH, self.dy_RH))
        moved: dict[int, Tensors] = {}
        for expert, tensors in self.tensors.items():
            moved[expert] = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
        return ExpertsWave(self.name, self.blocks, x_RH, dy_RH, moved)


def forms_of(bed: Bed) -> Iterator[Form]:
    """All that a job could choose on this device."""
    yield Form("experts by block", ByBlock(SwiGLUExpert()))
    yield Form("experts by tiles of 16", TiledSwiGLU(16))
    yield Form("experts by all their rows", TiledSwiGLU(None))
    for number, op in enumerate(bed.accelerator.expert_operators(), 1):
        yield Form(f"{type(op).__name__}, fused form {number}", op, is_fused=True)


def expert_checks(bed: Bed) -> Iterator[Check]:
    """One check for each form."""
    for form in forms_of(bed):
        yield Check(form.name, GROUP, form.name, partial(_judge, form))


def waves() -> Iterator[ExpertsWave]:
    """Ordinary rows, rows of NaN, rows so large that the activation saturates."""
    plain = _draw()
    yield plain
    for name, value in (("a row of NaN", torch.nan), ("a row of large values", 3e4)):
        x_RH = plain.x_RH.clone()
        x_RH[plain.blocks[1].start] = value
        yield ExpertsWave(name, plain.blocks, x_RH, plain.dy_RH, plain.tensors)


def _draw() -> ExpertsWave:
    draw = Draw()
    blocks = (Block(0, 0, 0, 5), Block(2, 0, 5, 37), Block(5, 0, 42, 1), Block(0, 1, 43, 18))
    tensors: dict[int, Tensors] = {}
    for expert in (0, 2, 5):
        tensors[expert] = {
            "gate_up_proj": draw.values(2 * INNER, HIDDEN) / 8,
            "down_proj": draw.values(HIDDEN, INNER) / 8,
        }
    x_RH, dy_RH = draw.values(61, HIDDEN), draw.values(61, HIDDEN)
    return ExpertsWave("ordinary rows", blocks, x_RH, dy_RH, tensors)


def compute(op: ExpertOp, wave: ExpertsWave) -> dict[str, Tensor]:
    """Outputs and all gradients, by name; weights' gradients in float32, or wider."""
    y_RH, again_RH, dx_RH = (torch.empty_like(wave.x_RH) for _ in range(3))
    wide = torch.promote_types(wave.x_RH.dtype, torch.float32)
    grads: dict[int, Tensors] = {}
    for expert, tensors in wave.tensors.items():
        zeros = {name: torch.zeros_like(one, dtype=wide) for name, one in tensors.items()}
        grads[expert] = zeros
    saved = op.forward(wave.x_RH, wave.blocks, wave.tensors, y_RH)
    op.backward(wave.dy_RH, saved, wave.tensors, grads, dx_RH, again_RH)()
    found = {"forward": y_RH, AGAIN: again_RH, "backward to the rows": dx_RH}
    for expert, tensors in grads.items():
        for name, tensor in tensors.items():
            found[f"backward to {name} of expert {expert}"] = tensor
    return {name: tensor.to(CPU) for name, tensor in found.items()}


def _judge(form: Form, bed: Bed) -> Result:
    words: dict[str, None] = {}
    deviations: list[Deviation] = []
    stable = True
    for wave in waves():
        for dtype in (torch.float32, torch.bfloat16):
            given = wave.on(CPU, dtype)
            placed = given.on(bed.device, dtype)
            found, again = compute(form.op, placed), compute(form.op, placed)
            stable = stable and all(same_bits(one, again[name]) for name, one in found.items())
            if not same_bits(found["forward"], found[AGAIN]):
                words["the backward's outputs have other bits than the forward's"] = None
            exact = compute(ByBlock(SwiGLUExpert()), given.on(CPU, torch.float64))
            deviations += _compare(wave, dtype, found, exact, words)
    if not stable:
        words["other bits when it is computed again"] = None
    return Result(tuple(words), (), _facts(form, bed, deviations, stable))


def _compare(
    wave: ExpertsWave,
    dtype: torch.dtype,
    found: Mapping[str, Tensor],
    exact: Mapping[str, Tensor],
    words: dict[str, None],
) -> Iterator[Deviation]:
    name = str(dtype).removeprefix("torch.")
    for part, tensor in found.items():
        apart = deviance(tensor, exact[part], Exactness.SUMMED)
        allowed = ROUNDINGS * tolerance_of(Exactness.PRODUCT, dtype)
        wider = ROUNDINGS * tolerance_of(Exactness.PRODUCT, dtype, tf32=True)
        is_tf32 = dtype == torch.float32 and allowed < apart.error <= wider
        allowed = wider if is_tf32 else allowed
        if apart.misfit:
            words[f"{name}, {wave.name}, {part}: {apart.misfit}"] = None
            continue
        if apart.error > allowed:
            much = f"error {apart.error:.1e} of the values' size, at most {allowed:.1e} is allowed"
            words[f"{name}, {wave.name}, {part}: {much}"] = None
        yield Deviation(
            dtype=name,
            direction="forward" if part == "forward" else "backward",
            error=apart.error,
            tolerance=allowed,
            tf32=is_tf32,
        )


def _facts(form: Form, bed: Bed, deviations: Sequence[Deviation], stable: bool) -> OperatorFacts:
    placed = _draw().on(bed.device, torch.float32)
    observed = observe(partial(compute, form.op, placed), bed.device)
    kind: Native = "native" if form.is_fused else "composed"
    speed = None
    if form.is_fused:
        plain = partial(compute, ByBlock(SwiGLUExpert()), placed)
        speed = compare_speed(partial(compute, form.op, placed), plain, bed.wait)
    return OperatorFacts(
        form="missing" if observed.on_host else kind,
        calls=observed.calls,
        deterministic=stable,
        deviations=_worst(deviations),
        speed=speed,
    )


def _worst(deviations: Sequence[Deviation]) -> tuple[Deviation, ...]:
    """The largest of each precision and direction."""
    found: dict[tuple[str, str], Deviation] = {}
    for one in deviations:
        key = (one.dtype, one.direction)
        if key not in found or one.error > found[key].error:
            found[key] = one
    return tuple(found.values())
