"""One run's directory: the only module that spells its paths, and what can be done with it.

    RUN/job.yaml  plan.json  status.json  metrics.jsonl  events.jsonl  lease/  report.html
        set-aside/<number>/  sources.json  tokenizer/
        logs/<generation>/<island>/<index>.log  logs/ray.log  checkpoints/  ledger/  tensorboard/

The controller is its only writer (logs, checkpoint data and the ledger apart).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from pydantic import ValidationError

from dougong.checkpoint.directories import list_committed
from dougong.errors import PlaceError, PlanError, RecordError, StorageError
from dougong.parallel.plan import Plan
from dougong.records.damage import (
    OnFault,
    check_row,
    command_of,
    damaged,
    first_fault,
    lost_job_words,
    meant_words,
    parse_event,
    read_model,
    read_text,
    refuse,
)
from dougong.records.events import Event, to_json
from dougong.records.files import (
    ROOM,
    cannot_begin,
    create_file,
    is_empty_folder,
    make_run_folder,
    replace_file,
)
from dougong.records.jsonl import (
    JsonLines,
    PlacedLine,
    Succession,
    decode_numbers,
    dumps,
    parse_line,
)
from dougong.records.lease import LEASES, newest_fence
from dougong.records.metrics import MetricsRow, in_present_words, live_rows
from dougong.records.status import ControllerAddress, RunStatus

PROOF = "proof"
"""Begins the names of files by which machines show that they see one directory."""
_NAMES = (
    "job.yaml",
    "plan.json",
    "status.json",
    "metrics.jsonl",
    "events.jsonl",
    "controller.json",
    "report.html",
    "checkpoints",
    "ledger",
    "tensorboard",
    "logs",
    "partial_run.json",
    "trace",
    "sources.json",
    "tokenizer",
    "private",
    PROOF,
)
"""All that a run leaves. What is not in this list is foreign: `run` refuses a directory with it."""

_LAST_BYTES = 1 << 18
"""Of metrics.jsonl, where only its end is wanted."""


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


class RunDir:
    """Paths, writers and readers of one run. Readers meet a run that has not come so far, or whose
    controller was killed at any byte; the clocks are passed in for tests.

    `fence`: the number of the lease of the process that writes, which all that it writes bears; 0
    of one that only reads.
    """

    def __init__(
        self,
        path: str | Path,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = _utc_now,
        fence: int = 0,
    ) -> None:
        self.path = Path(path)
        self._monotonic = monotonic
        self._now = now
        self.fence = fence
        self._metrics = JsonLines(self.metrics_file)
        self._events = JsonLines(self.events_file)

    @classmethod
    def create(cls, path: str | Path) -> RunDir:
        """A directory for a new run. PlaceError when a run lies there already; two at once: one
        wins."""
        run = cls(path)
        make_run_folder(run.path)
        kept = (run.job_file, run.metrics_file, run.checkpoints)
        try:
            taken = [p.name for p in kept if p.exists() and not is_empty_folder(p)]
            if not taken and not create_file(run.events_file):
                taken = [run.events_file.name]
            if not taken:
                run.checkpoints.mkdir(exist_ok=True)
                return run
        except OSError as error:
            raise cannot_begin(run.path, error) from error
        raise PlaceError(
            f"{run.path}: holds a run already ({', '.join(taken)}); "
            f"go on with it by `dougong resume {run.path}`, or pass another --run-dir"
        )

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """An existing run. PlaceError says what is missing and, when it can be seen, which
        directory was meant."""
        run = cls(path)
        try:
            run._check_that_it_is_one()
        except OSError as error:
            # Such as that of a network mount which has gone stale.
            raise StorageError(
                f"{run.path}: cannot be read: {error.strerror}; mount or mend it, then try again"
            ) from error
        return run

    def of_writer(self, fence: int) -> RunDir:
        """The same directory, for the holder of this lease."""
        return RunDir(self.path, self._monotonic, self._now, fence)

    def _check_that_it_is_one(self) -> None:
        if not self.path.is_dir():
            what = "no such directory"
            if os.path.lexists(self.path):
                what = "a link to nothing" if self.path.is_symlink() else "a file"
            raise PlaceError(f"{self.path}: {what}; give the directory that `dougong run` printed")
        missing = [p.name for p in (self.job_file, self.events_file) if not p.is_file()]
        checkpoints = list_committed(self.checkpoints) if missing else []
        if checkpoints and self.job_file.is_file():
            return  # its history is lost, which a resume tells
        if checkpoints:
            began = command_of(self.read_events)
            raise PlaceError(lost_job_words(self.job_file, checkpoints[0].path, began))
        if missing:
            names = " and ".join(missing)
            raise PlaceError(
                f"{self.path}: not a run directory: {names} missing{meant_words(self.path)}"
            )

    def owns(self, name: str) -> bool:
        """Whether an entry of the directory is a run's own: what it keeps, or is just replacing."""
        return name in _NAMES or any(name.startswith(f".{known}.") for known in _NAMES)

    @property
    def job_file(self) -> Path:
        return self.path / "job.yaml"

    @property
    def plan_file(self) -> Path:
        return self.path / "plan.json"

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    def address_file(self, fence: int) -> Path:
        """How the holder of a lease is reached."""
        return self.path / LEASES / f"{fence}.address"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def ledger(self) -> Path:
        """What workers keep of every step: `checkpoint.ledger_file` says how."""
        return self.path / "ledger"

    @property
    def sources_file(self) -> Path:
        """What the run has read from outside its job file, as it was when it began."""
        return self.path / "sources.json"

    @property
    def own_tokenizer(self) -> Path:
        """A copy of the tokenizer's files."""
        return self.path / "tokenizer"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def log_file(self, generation: int, worker: str) -> Path:
        """`logs/1/east/1.log` for worker `east/1` of generation 1. Its folder may not exist yet."""
        island, slash, index = worker.partition("/")
        if not (slash and index.isdecimal()) or island in ("", ".", ".."):
            raise PlaceError(f"{worker!r} is no worker's name; names look like east/1")
        return self.logs / str(generation) / island / f"{index}.log"

    def agent_log(self, agent: str) -> Path:
        """Where an agent itself prints, or what its backend says of its end: next to the logs of
        generation 0. Its folder may not exist yet."""
        return self.log_file(0, f"agent-{agent}/0")

    def log_files(self) -> dict[tuple[int, str], Path]:
        """Every log there is, by (generation, worker), in that order."""
        found = {}
        for path in self.logs.glob("*/*/*.log"):
            generation, island, name = path.relative_to(self.logs).parts
            index = name.removesuffix(".log")
            if generation.isdecimal() and index.isdecimal():
                found[int(generation), island, int(index)] = path
        # Sorted by number: worker 10 comes after worker 9.
        in_order = sorted(found.items())
        return {(number, f"{island}/{i}"): path for (number, island, i), path in in_order}

    def append_metrics(self, row: MetricsRow) -> MetricsRow:
        """Write one step's row, stamped as by `stamp_row`, and hand it back so."""
        stamped = self.stamp_row(row)
        self.write_row(stamped)
        return stamped

    def stamp_row(self, row: MetricsRow) -> MetricsRow:
        """The row with both clocks and the writer's number, as it would be written now."""
        clocks = {"monotonic_s": round(self._monotonic(), 6), "wall": self._wall()}
        return {**row, "fence": self.fence, **clocks}

    def write_row(self, stamped: MetricsRow) -> None:
        """Append a row that has its stamp. StorageError where it cannot be; then it may be tried
        again."""
        self._metrics.append(stamped)

    def append_event(self, event: Event) -> Event:
        """Write one event, stamped as by `stamp`, and hand it back so."""
        stamped = self.stamp(event)
        self.write_event(stamped)
        return stamped

    def write_event(self, stamped: Event) -> None:
        """Append an event that has its stamp; else as `write_row`."""
        self._events.append(to_json(stamped))

    def stamp(self, event: Event) -> Event:
        """The event with both clocks and the writer's number, as it would be written now."""
        clocks = {"monotonic_s": round(self._monotonic(), 6), "wall": self._wall()}
        return event.model_copy(update={**clocks, "fence": self.fence})

    def write_status(self, status: RunStatus) -> None:
        """Replace status.json, signed with the writer's number."""
        signed = status.model_copy(update={"fence": self.fence})
        self._replace(self.status_file, dumps(signed.to_json()) + "\n")

    def write_plan(self, text: str) -> None:
        """Replace plan.json, durably."""
        self._replace(self.plan_file, text, durable=True)

    def write_job(self, text: str) -> None:
        """Replace job.yaml, durably."""
        self._replace(self.job_file, text, durable=True)

    def write_report(self, text: str) -> None:
        """Replace report.html; the old page stays until the new one is whole."""
        self._replace(self.report_file, text)

    def write_controller(self, address: ControllerAddress) -> None:
        """How to reach the controller: readable by this user alone."""
        text = dumps(address.model_dump()) + "\n"
        (self.path / LEASES).mkdir(exist_ok=True)
        self._replace(self.address_file(self.fence), text, mode=0o600)

    def remove_controller(self) -> None:
        """Forget the controller's address when it ends. No error when it is gone already, or
        cannot be removed: nobody answers there."""
        with contextlib.suppress(OSError):
            self.address_file(self.fence).unlink()

    def read_metrics(
        self, needed: Sequence[str] = (), on_fault: OnFault = refuse
    ) -> list[MetricsRow]:
        """All rows in the order written, rewound ones too. A torn last line is left out.

        `needed`: the keys that the caller reads of every row, besides `step`. RecordError names a
        line that lacks one, or holds what is no row of a step; where `on_fault` takes it, the line
        is left out. So for the two below.
        """
        return list(self._rows(self._metrics.lines(), needed, on_fault))

    def stream_metrics(self, on_fault: OnFault = refuse) -> Iterator[MetricsRow]:
        """As `read_metrics`, a row at a time, for a run of any length."""
        yield from self._rows(self._metrics.lines(), (), on_fault)

    def read_last_metrics(self, on_fault: OnFault = refuse) -> list[MetricsRow]:
        """The last rows written, some hundred of them at most, also of a run of a million steps."""
        return list(self._rows(self._metrics.last_lines(_LAST_BYTES), (), on_fault))

    def _rows(
        self, lines: Iterable[PlacedLine], needed: Sequence[str], on_fault: OnFault
    ) -> Iterator[MetricsRow]:
        succession = Succession()
        for place, line in lines:
            try:
                fields = parse_line(place, line)
                if not succession.counts(fields):
                    continue
                row = in_present_words(decode_numbers(fields))
                check_row(place, row, needed)
            except RecordError as error:
                on_fault(error)
                continue
            yield row

    def latest_metrics(self) -> list[MetricsRow]:
        """The rows of the run's present history, one a step: what a later generation rewound
        is dropped."""
        return live_rows(self.read_metrics())

    def read_events(self) -> list[Event]:
        """All events in the order written; those of a controller that another had followed by then
        are left out, and a torn last line. RecordError names a line that is no event of this
        release."""
        events = []
        succession = Succession()
        for number, fields in enumerate(self._events.read(), 1):
            if succession.counts(fields):
                events.append(parse_event(self.events_file, number, fields))
        return events

    def read_status(self) -> RunStatus | None:
        """status.json, or None when the run has not come so far. RecordError when it is damaged;
        so for the readers below."""
        return read_model(self.status_file, RunStatus)

    def read_controller(self) -> ControllerAddress | None:
        """How the newest controller is reached; None when it has ended, or listens not yet."""
        advice = "if no process of this run is left, delete the file"
        return read_model(self.address_file(newest_fence(self.path)), ControllerAddress, advice)

    def read_plan(self) -> Plan | None:
        """plan.json, or None when the run ended before it had one."""
        text = read_text(self.plan_file)
        if text is None:
            return None
        try:
            return Plan.from_json(text)
        except ValidationError as error:
            raise damaged(self.plan_file, first_fault(error)) from error
        except PlanError as error:
            raise damaged(self.plan_file, str(error)) from error

    def read_job(self) -> str:
        """The resolved job file's text; empty when the run ended before it was written."""
        return read_text(self.job_file) or ""

    def _wall(self) -> str:
        """ISO 8601, UTC, to the millisecond."""
        wall = self._now().astimezone(timezone.utc).isoformat(timespec="milliseconds")
        return wall.replace("+00:00", "Z")

    def _replace(self, path: Path, text: str, mode: int = 0o666, durable: bool = False) -> None:
        try:
            replace_file(path, text, mode, durable)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}; {ROOM}") from error
