"""Takes the fingerprint of an opened device: every probe, twice."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch

from dougong.accelerators.base import strictly_deterministic
from dougong.fingerprint.bench import Bench, Probe, measure
from dougong.fingerprint.device import describe
from dougong.fingerprint.general import general_probes
from dougong.fingerprint.host_update import host_probes
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
    host_adam: Any = None,
) -> Fingerprint:
    """Run every probe twice on `device` (opened by its accelerator) and hash what comes out.

    General probes run in each of `precisions`, those of `shapes` in the last of them. `variables`
    are recorded as part of the environment. `host_adam`: DeepSpeed's `cpu_adam`, where the update
    is the machine's.
    """
    bench = Bench(device)
    probes = dict(general_probes(bench, precisions))
    if shapes is not None:
        probes |= dict(shaped_probes(bench, shapes, precisions[-1]))
    if host_adam is not None:
        probes |= dict(host_probes(host_adam))
    hashes = {name: _answer(name, probe) for name, probe in probes.items()}
    environment = describe(device) | dict(variables or {})
    return Fingerprint(hashes, question_of(precisions, shapes, host_adam is not None), environment)


def _answer(name: str, probe: Probe) -> str:
    """The hash of its bits, or why there is none: whether that matters is not decided here."""
    # Attention's backward computes as in a step (`segments.tape`).
    strict = strictly_deterministic() if "attention" in name else contextlib.nullcontext()
    try:
        with strict:
            return measure(probe)
    except RuntimeError as error:  # a kernel without this precision, a device without the memory
        words = str(error).strip().splitlines() or [""]
        return f"{CANNOT_RUN}{type(error).__name__}: {words[0]}"
