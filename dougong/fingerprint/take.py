"""Takes the fingerprint of an opened device: every probe, twice."""

from __future__ import annotations

from collections.abc import Mapping

import torch


from dougong.fingerprint.bench import Bench, Probe, measure
from dougong.fingerprint.device import describe
from dougong.fingerprint.general import general_probes
from dougong.fingerprint.job_shapes import shaped_probes
from dougong.fingerprint.record import (
    CANNOT_RUN,
    PRECISIONS,
    Fingerprint,
    JobShapes,
    question_of,
)


def take_fingerprint(
    device: torch.device,
    precisions: tuple[str, ...] = PRECISIONS,
    shapes: JobShapes | None = None,
    variables: Mapping[str, str] | None = None,
) -> Fingerprint:
    """Run every probe twice on `device` (opened by its accelerator) and hash what comes out.

    General probes run in each of `precisions`, those of `shapes` in the last of them. `variables`
    are recorded as part of the environment.
    """
    bench = Bench(device)
    probes = dict(general_probes(bench, precisions))
    if shapes is not None:
        probes |= dict(shaped_probes(bench, shapes, precisions[-1]))
    hashes = {name: _answer(probe) for name, probe in probes.items()}
    environment = describe(device) | dict(variables or {})
    return Fingerprint(hashes, question_of(precisions, shapes), environment)


def _answer(probe: Probe) -> str:
    """The hash of its bits, or why there is none: whether that matters is not decided here."""
    try:
        return measure(probe)
    except RuntimeError as error:  # a kernel without this precision, a device without the memory
        words = str(error).strip().splitlines() or [""]
        return f"{CANNOT_RUN}{type(error).__name__}: {words[0]}"
