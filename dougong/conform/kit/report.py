"""Runs everything that is asked for, and keeps the report: `conformance.json`, and a page."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from datetime import datetime, timezone
from pathlib import Path

from pydantic import ValidationError

from dougong.accelerators.base import Accelerator
from dougong.accelerators.registry import get_accelerator
from dougong.conform.kit.crew import Examination, Told, run_part
from dougong.conform.kit.lines import PARTS, CheckBegun
from dougong.conform.kit.page import render
from dougong.conform.record import CUT_SHORT_FILE, FILE, CheckOutcome, Conformance, with_causes
from dougong.conform.steps.tiny import job_of
from dougong.control.environment import arithmetic_variables, refused_variables
from dougong.errors import DeviceError, RecordError, StorageError
from dougong.records.files import replace_file
from dougong.records.machine import describe_machine

PAGE, CUT_SHORT_PAGE = "conformance.html", "cut-short.html"


def examine(trial: Examination, tell: Callable[[Told], None]) -> Conformance:
    """Run all checks; `tell` hears of each that begins and each that is over. A KeyboardInterrupt
    cuts them short: what has been found until then is returned, and no process is left.

    Raises DeviceError where the device does not open, ModelError for a model that is none.
    """
    accelerator = get_accelerator(trial.accelerator)
    found = [f"{one.variable}={one.value}" for one in refused_variables(accelerator.refused)]
    if found:
        raise DeviceError(
            f"accelerator {trial.accelerator}: {', '.join(found)} is set, with which a run is "
            "refused; unset it in this shell, so that what is checked is what a run computes with"
        )
    device = _asked(accelerator, trial.threads) | _variables(accelerator)
    if trial.model:
        job_of(trial.model)  # what cannot be tried is refused before anything is
    progress = _Progress(tell)
    cut_short = ""
    try:
        for part in PARTS:
            progress.follow(run_part(part, trial))
    except KeyboardInterrupt:
        cut_short = progress.under_way
    return Conformance(
        accelerator=trial.accelerator,
        device=device,
        machine=describe_machine(),
        wall=datetime.now(timezone.utc).isoformat(),
        outcomes=with_causes(tuple(progress.outcomes)),
        model=trial.model,
        cut_short=cut_short,
    )


class _Progress:
    """What has been told so far. `under_way`: the check that is being made."""

    def __init__(self, tell: Callable[[Told], None]) -> None:
        self.outcomes: list[CheckOutcome] = []
        self.under_way = "the device's opening"
        self._tell = tell

    def follow(self, part: Generator[Told, None, None]) -> None:
        """To its end, which an exception brings about at once."""
        with contextlib.closing(part):
            for told in part:
                self._note(told)

    def _note(self, told: Told) -> None:
        if isinstance(told, CheckBegun):
            self.under_way = f"{told.group}: {told.name}"
        else:
            self.outcomes.append(told)
        self._tell(told)


def _asked(accelerator: Accelerator, threads: int) -> dict[str, str]:
    """What the accelerator says of its devices. All that opens none is asked for: DeviceError where
    one answer is none, before checks that take minutes."""
    accelerator.worker_environment(threads, deterministic=False)
    accelerator.interface_variables("lo")
    accelerator.memory_bytes()
    accelerator.device_keys()
    accelerator.missing()
    described = accelerator.describe()
    accelerator.peak_rate(described.get("name", ""), "float32")
    return described


def _variables(accelerator: Accelerator) -> dict[str, str]:
    """What the environment says of arithmetic, for the report."""
    found = arithmetic_variables(accelerator.arithmetic_variables)
    return {f"${name}": value for name, value in sorted(found.items())}


def keep(found: Conformance, folder: Path) -> Path:
    """Write both files, each in one rename; the page's path. One that was cut short leaves a whole
    one as it is; a whole one takes the place of both. StorageError where they cannot be written."""
    page = folder / (CUT_SHORT_PAGE if found.cut_short else PAGE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / found.file, f"{found.model_dump_json(indent=1)}\n")
        replace_file(page, render(found))
        if not found.cut_short:
            for name in (CUT_SHORT_FILE, CUT_SHORT_PAGE):
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: the report cannot be written: {error.strerror}; make room there, or name "
            "another place by --out, and run `dougong conform` again"
        ) from error
    return page


def read(folder: Path) -> Conformance:
    """What `keep` wrote. Raises RecordError where it is not whole."""
    file = folder / FILE
    try:
        return Conformance.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise RecordError(f"{file}: {why}; run `dougong conform` again") from error
