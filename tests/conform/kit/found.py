"""A report with one of everything."""

from __future__ import annotations

from dougong.conform.record import (
    CheckOutcome,
    Conformance,
    Deviation,
    Native,
    OperatorFacts,
    SegmentFacts,
    Speedup,
    with_causes,
)
from dougong.records.machine import Machine

SPEED = Speedup(times=1.5, low=1.4, high=1.75, pairs=25)


def operator(
    name: str,
    form: Native = "native",
    words: tuple[str, ...] = (),
    error: float = 1e-7,
    calls: tuple[str, ...] = (),
    speed: Speedup | None = SPEED,
) -> CheckOutcome:
    deviations = (
        Deviation(dtype="float32", direction="forward", error=error, tolerance=1e-6),
        Deviation(dtype="float32", direction="backward", error=0.0, tolerance=0.0),
    )
    moves = ("the number of rows",) if form == "composed" else ()
    facts = OperatorFacts(
        form=form, calls=calls, deterministic=not words, moves_with=moves, deviations=deviations, speed=speed
    )
    grade = "unsound" if words else "sound"
    judges = f"aten::{name}"
    return CheckOutcome(name=name, group="operators", judges=judges, grade=grade, words=words, operator=facts)


def found(is_sound: bool = False) -> Conformance:
    outcomes = [
        CheckOutcome(name="copy <there>", group="copies", judges="Tensor.to", grade="sound"),
        CheckOutcome(
            name="a wait", group="streams", judges="Stream.wait", grade="not run", remarks=("no streams here",)
        ),
        operator("silu"),
        operator("norm", form="composed"),
    ]
    segments = (SegmentFacts(name="segment 0", error=1e-7, tolerance=1e-5),)
    if not is_sound:
        outcomes += [
            operator("mm", words=("float32: other bits", "and more"), error=1e-3),
            operator("linear", words=("float32 forward: error",), calls=("aten::mm",)),
        ]
        segments = (*segments, SegmentFacts(name="segment 1", error=1.0, tolerance=1e-5, words="hidden is off"))
    words = () if is_sound else ("segment 1 is the first to depart",)
    outcomes.append(
        CheckOutcome(
            name="the model", group="model", judges="model", segments=segments, words=words,
            grade="sound" if is_sound else "unsound",
        )
    )  # fmt: skip
    return Conformance(
        accelerator="simq",
        device={"name": "2 devices"},
        machine=Machine(host="here", versions={"torch": "2.13"}),
        wall="2026-11-22T10:00:00+00:00",
        outcomes=with_causes(tuple(outcomes)),
        model="qwen3_moe",
    )
