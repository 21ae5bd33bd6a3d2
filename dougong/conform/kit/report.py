"""Runs everything that is asked for, and keeps the report: `conformance.json`, and a page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from pydantic import ValidationError

from dougong.accelerators.base import Accelerator
from dougong.accelerators.registry import get_accelerator
from dougong.conform.kit.crew import Examination, Told, run_part
from dougong.conform.kit.lines import PARTS
from dougong.conform.kit.page import render
from dougong.conform.record import FILE, CheckOutcome, Conformance, with_causes
from dougong.conform.steps.tiny import job_of
from dougong.control.environment import arithmetic_variables, refused_variables
from dougong.errors import DeviceError, RecordError
from dougong.records.files import replace_file
from dougong.records.machine import describe_machine

PAGE = "conformance.html"


def examine(trial: Examination, tell: Callable[[Told], None]) -> Conformance:
    """Run all checks; `tell` hears of each that begins and each that is over.

    Raises DeviceError where the device does not open, ModelError for a model that is none.
    """
    accelerator = get_accelerator(trial.accelerator)
    found = [f"{one.variable}={one.value}" for one in refused_variables(accelerator.refused)]
    if found:
        raise DeviceError(
            f"accelerator {trial.accelerator}: {', '.join(found)} is set, with which a run is "
            "refused; unset it in this shell, so that what is checked is what a run computes with"
        )
    if trial.model:
        job_of(trial.model)  # what cannot be tried is refused before anything is
    outcomes: list[CheckOutcome] = []
    for part in PARTS:
        for told in run_part(part, trial):
            tell(told)
            if isinstance(told, CheckOutcome):
                outcomes.append(told)
    return Conformance(
        accelerator=trial.accelerator,
        device=accelerator.describe() | _variables(accelerator),
        machine=describe_machine(),
        wall=datetime.now(timezone.utc).isoformat(),
        outcomes=with_causes(tuple(outcomes)),
        model=trial.model,
    )


def _variables(accelerator: Accelerator) -> dict[str, str]:
    """What the environment says of arithmetic, for the report."""
    found = arithmetic_variables(accelerator.arithmetic_variables)
    return {f"${name}": value for name, value in sorted(found.items())}


def keep(found: Conformance, folder: Path) -> Path:
    """Write both files, each in one rename; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / FILE, f"{found.model_dump_json(indent=1)}\n")
    page = folder / PAGE
    replace_file(page, render(found))
    return page


def read(folder: Path) -> Conformance:
    """What `keep` wrote. Raises RecordError where it is not whole."""
    file = folder / FILE
    try:
        return Conformance.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise RecordError(f"{file}: {why}; run `dougong conform` again") from error
