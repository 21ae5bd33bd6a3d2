"""One operator on a device: values, repetitions and layouts, judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from dougong.conform.check import CPU, Bed, Check, Result, first_line
from dougong.conform.forms import form_of, observe
from dougong.conform.judge import Exactness, deviance, same_bits, tolerance_of
from dougong.conform.operators.case import Case, given, placed, results
from dougong.conform.operators.layouts import is_fault, moves_with
from dougong.conform.operators.timing import compare_speed
from dougong.conform.record import Deviation, OperatorFacts, Speedup

GROUP = "operators"
TF32_WORDS = "products with the precision of TF32: other bits than elsewhere (numerics: bounded)"
Direction = Literal["forward", "backward"]


def check_of(case: Case) -> Check:
    return Check(case.name, GROUP, case.judges, partial(run_case, case))


@dataclass
class _Notes:
    """What is found while a case is tried."""

    words: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    deviations: list[Deviation] = field(default_factory=list)
    deterministic: bool | None = None
    moves_with: dict[str, None] = field(default_factory=dict)


def run_case(case: Case, bed: Bed) -> Result:
    """Judge an operator in each precision: values, bits of repetitions, and layouts."""
    notes = _Notes()
    try:
        for dtype in case.dtypes:
            _try_in(case, dtype, bed, notes)
        facts = _facts(case, bed, notes)
    except NotImplementedError as error:
        notes.words.append(f"there is no kernel of it: {first_line(error)}")
        facts = OperatorFacts(form="missing")
    if facts.form == "missing" and not notes.words:
        notes.words.append("there is no kernel of it: torch runs it on the host")
    return Result(tuple(dict.fromkeys(notes.words)), tuple(notes.remarks), facts)


def _facts(case: Case, bed: Bed, notes: _Notes) -> OperatorFacts:
    inputs = placed(given(case, case.dtypes[0]), bed.device)
    observed = observe(partial(results, case, inputs), bed.device)
    return OperatorFacts(
        form=form_of(case.judges, observed, bed.device),
        calls=observed.calls,
        deterministic=notes.deterministic,
        moves_with=tuple(notes.moves_with),
        deviations=tuple(notes.deviations),
        speed=_speed(case, inputs, bed),
    )


def _try_in(case: Case, dtype: torch.dtype, bed: Bed, notes: _Notes) -> None:
    """One precision: every form of the inputs' memory, against the exact values."""
    on_host = given(case, dtype)
    exact = _exact(case, on_host)
    inputs = placed(on_host, bed.device)
    found = _brought(results(case, inputs))
    _compare(case, dtype, found, exact, notes)
    again = [_brought(results(case, inputs)) for _ in range(case.times - 1)]
    stable = all(_are_same(found, other) for other in again)
    notes.deterministic = stable and notes.deterministic is not False
    if not stable:
        notes.words.append(f"{_name(dtype)}: other bits when it is computed again")
    if case.spread:
        _compare_strided(case, dtype, bed, exact, notes)
    if case.rows:
        _vary_rows(case, dtype, bed, found if stable else None, notes)
    if case.composed is not None:
        _compare_composed(case, dtype, inputs, exact, notes)


def _exact(case: Case, on_host: Sequence[Tensor]) -> list[Tensor]:
    """What the device should give: in float64, or with the processor's own bits where nothing is
    computed."""
    if case.exactness is Exactness.MOVED and case.of_gradients is Exactness.MOVED:
        return results(case, on_host)
    wide = [tensor.double() if tensor.is_floating_point() else tensor for tensor in on_host]
    return results(replace(case, compute=case.exact or case.compute), wide)


def _compare(
    case: Case, dtype: torch.dtype, found: list[Tensor], exact: list[Tensor], notes: _Notes
) -> None:
    num_outputs = len(found) - len(case.trained)
    values, gradients = slice(num_outputs), slice(num_outputs, None)
    forward = _Part(dtype, "forward", case.exactness)
    backward = _Part(dtype, "backward", case.of_gradients)
    _compare_part(forward, found[values], exact[values], notes)
    _compare_part(backward, found[gradients], exact[gradients], notes)


@dataclass(frozen=True)
class _Part:
    """What is compared: outputs or gradients in one precision, and what may be asked of them."""

    dtype: torch.dtype
    direction: Direction
    how: Exactness

    @property
    def name(self) -> str:
        return f"{_name(self.dtype)} {self.direction}"


def _compare_part(
    part: _Part, found: Sequence[Tensor], exact: Sequence[Tensor], notes: _Notes
) -> None:
    how = part.how
    pairs = zip(found, exact, strict=True)
    apart = [deviance(one, _like(other, one, how), how) for one, other in pairs]
    notes.words += [f"{part.name}: {one.misfit}" for one in apart if one.misfit]
    errors = [one.error for one in apart if not one.misfit]
    if errors:
        _note_error(max(errors), part, notes)


def _like(exact: Tensor, found: Tensor, how: Exactness) -> Tensor:
    """Exact values that are to be met bit by bit have the device's precision."""
    if how is Exactness.MOVED and exact.dtype == torch.float64:
        return exact.to(found.dtype)
    return exact


def _note_error(error: float, part: _Part, notes: _Notes) -> None:
    allowed = tolerance_of(part.how, part.dtype)
    is_product = part.how is Exactness.PRODUCT and part.dtype == torch.float32
    wider = tolerance_of(part.how, part.dtype, tf32=True)
    is_tf32 = is_product and allowed < error <= wider
    if is_tf32:
        allowed = wider
        _add_once(notes.remarks, TF32_WORDS)
    notes.deviations.append(
        Deviation(
            dtype=_name(part.dtype),
            direction=part.direction,
            error=error,
            tolerance=allowed,
            tf32=is_tf32,
        )
    )
    if error > allowed:
        notes.words.append(
            f"{part.name}: error {error:.1e} of the values' size, at most {allowed:.1e} is allowed"
        )


def _add_once(texts: list[str], text: str) -> None:
    if text not in texts:
        texts.append(text)


def _compare_strided(
    case: Case, dtype: torch.dtype, bed: Bed, exact: list[Tensor], notes: _Notes
) -> None:
    """The same values, where they do not lie one after another."""
    inputs = [_spread(tensor.to(bed.device)) for tensor in given(case, dtype)]
    told = _Notes()
    _compare(case, dtype, _brought(results(case, inputs)), exact, told)
    notes.words += [f"{words} (of values that lie apart in memory)" for words in told.words]


def _spread(tensor: Tensor) -> Tensor:
    """A view of every other value of a tensor that is twice as wide; the others hold a number that
    nobody may read."""
    if not tensor.dim():
        return tensor
    wide = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 1)
    view = wide[..., ::2]
    view.copy_(tensor)
    return view


def _vary_rows(
    case: Case, dtype: torch.dtype, bed: Bed, found: list[Tensor] | None, notes: _Notes
) -> None:
    _compare_no_rows(case, dtype, bed, notes)
    if found is None:
        return  # where bits change by themselves nothing is known of what else changes them
    for what in moves_with(case, dtype, bed.device, found):
        notes.moves_with[what.value] = None
        if is_fault(case, what):
            notes.words.append(f"{_name(dtype)}: a row's bits depend on {what.value}")


def _compare_no_rows(case: Case, dtype: torch.dtype, bed: Bed, notes: _Notes) -> None:
    """A wave without rows, as an expert without tokens has it."""
    on_host = given(case, dtype)
    for number in case.rows:
        on_host[number] = on_host[number][:0]
    told = _Notes()
    found = _brought(results(case, placed(on_host, bed.device)))
    _compare(case, dtype, found, _exact(case, on_host), told)
    notes.words += [f"{words} (without rows)" for words in told.words]


def _compare_composed(
    case: Case, dtype: torch.dtype, inputs: list[Tensor], exact: list[Tensor], notes: _Notes
) -> None:
    """The form of plain operators, which a job may choose instead, is judged by the same rule."""
    assert case.composed is not None
    told = _Notes()
    plain = replace(case, compute=case.composed)
    try:
        _compare(case, dtype, _brought(results(plain, inputs)), exact, told)
    except NotImplementedError as error:  # of an operator that is judged by itself
        told.words.append(first_line(error))
    notes.remarks += [f"the composed form: {words}" for words in told.words]


def _brought(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.to(CPU) for tensor in tensors]


def _are_same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(same_bits(a, b) for a, b in zip(one, other, strict=True))


def _speed(case: Case, inputs: list[Tensor], bed: Bed) -> Speedup | None:
    """Against the composed form; None where there is none, or the device cannot compute it."""
    if case.composed is None:
        return None
    plain = replace(case, compute=case.composed)
    try:
        return compare_speed(
            partial(results, case, inputs), partial(results, plain, inputs), bed.wait
        )
    except NotImplementedError:
        return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
