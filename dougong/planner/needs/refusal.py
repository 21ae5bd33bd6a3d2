"""Why a plan does not fit: the number, what it is made of, and the keys that help. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dougong.planner.needs.remedies import Remedies
from dougong.planner.needs.terms import Term, Terms, WorkerMemory, added

BYTES_PER_GB = 1e9


def too_large(
    worker: str, memory: WorkerMemory, room: str, num_bytes: float, remedies: Remedies
) -> str:
    """Of one worker's device. `room`: what gives it the `num_bytes`, with its verb."""
    needed = f"{worker} needs {gb(memory.peak)} at its peak ({memory.top})"
    terms = listed(memory.at_peak)
    if memory.unit is not None:
        name, weights = memory.unit
        terms += f" (of what comes and goes {name} has most, {gb(weights)} of weights)"
    return f"{needed}, and {room} {gb(num_bytes)}: {terms}; {remedies.advice(memory.at_peak)}"


def listed(terms: Terms) -> str:
    """`weights 3.1 GB, gradients 6.2 GB`; the largest first."""
    ordered = sorted(terms, key=lambda term: -terms[term])
    return ", ".join(f"{term.words} {gb(terms[term])}" for term in ordered)


def together(memories: Sequence[WorkerMemory], with_host: bool) -> dict[Term, int]:
    """What several workers take of one memory at their peaks; `with_host`: it is the machine's."""
    at_peak = added([memory.at_peak for memory in memories])
    return added([at_peak, beside_devices(memories)]) if with_host else at_peak


def beside_devices(memories: Sequence[WorkerMemory]) -> dict[Term, int]:
    """What several workers take of their machine's memory besides."""
    return added([memory.host for memory in memories])


def gb(num_bytes: float) -> str:
    """Three digits, and whole numbers from a hundred on."""
    amount = num_bytes / BYTES_PER_GB
    return f"{amount:,.0f} GB" if amount >= 100 else f"{amount:.3g} GB"
