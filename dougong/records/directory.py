"""One run's directory: the only module that spells its paths. The controller is its only writer
(logs, checkpoint data and the ledger apart), so a line is appended by one `write` and a file is
replaced by one `rename`.

    RUN/job.yaml  plan.json  status.json  metrics.jsonl  events.jsonl  controller.json  report.html
        logs/<generation>/<island>/<index>.log   checkpoints/   ledger/   tensorboard/
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dougong.errors import LaunchError
from dougong.parallel.plan import Plan
from dougong.records.events import Event, from_json, to_json

MetricsRow = dict[str, Any]

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


class RunDir:
    """Paths, atomic writers and forgiving readers of one run. The clocks are passed in for
    tests."""

    def __init__(
        self,
        path: str | Path,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.path = Path(path)
        self._monotonic = monotonic
        self._now = now
        self._lock = threading.Lock()
        self._repaired: set[Path] = set()

    @classmethod
    def create(cls, path: str | Path) -> RunDir:
        """Claim `path` for a new run. LaunchError when a run lies there already; two claims at
        once: one wins."""
        run = cls(path)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise LaunchError(
                f"{run.path}: a file is in the way; pass another --run-dir"
            ) from error
        taken = [p.name for p in (run.job_file, run.metrics_file, run.checkpoints) if p.exists()]
        try:
            if taken:
                raise FileExistsError(taken[0])
            os.close(os.open(run.events_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError as error:
            raise LaunchError(
                f"{run.path}: holds a run already ({', '.join(taken) or run.events_file.name}); "
                f"go on with it by `dougong resume {run.path}`, or pass another --run-dir"
            ) from error
        run.checkpoints.mkdir()
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """An existing run. LaunchError says what is missing and, when it can be seen, which
        directory was meant."""
        run = cls(path)
        if not run.path.is_dir():
            raise LaunchError(
                f"{run.path}: no such directory; give the directory that `dougong run` printed"
            )
        missing = [p.name for p in (run.job_file, run.events_file) if not p.is_file()]
        if missing:
            raise LaunchError(
                f"{run.path}: not a run directory: {' and '.join(missing)} missing{_guess(run.path)}"
            )
        return run

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

    @property
    def controller_file(self) -> Path:
        return self.path / "controller.json"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def ledger(self) -> Path:
        """What workers keep of every step: `checkpoint.ledger` says how."""
        return self.path / "ledger"

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
            raise LaunchError(f"{worker!r} is no worker's name; names look like east/1")
        return self.logs / str(generation) / island / f"{index}.log"

    def log_files(self) -> dict[tuple[int, str], Path]:
        """Every log there is, by (generation, worker), in that order."""
        found = {}
        for path in self.logs.glob("*/*/*.log"):
            generation, island, name = path.relative_to(self.logs).parts
            index = name.removesuffix(".log")
            if generation.isdecimal() and index.isdecimal():
                found[(int(generation), island, int(index))] = path
        return {
            (g, f"{island}/{index}"): path for (g, island, index), path in sorted(found.items())
        }

    def append_metrics(self, row: MetricsRow) -> None:
        """One step's row. Numbers that JSON has no word for are written as "NaN", "Infinity",
        "-Infinity"."""
        self._append(self.metrics_file, row)

    def append_event(self, event: Event) -> Event:
        """Write one event, stamped with both clocks, and hand it back so."""
        wall = self._now().astimezone(timezone.utc).isoformat(timespec="milliseconds")
        clocks = {
            "monotonic_s": round(self._monotonic(), 6),
            "wall": wall.replace("+00:00", "Z"),
        }
        stamped = event.model_copy(update=clocks)
        self._append(self.events_file, to_json(stamped))
        return stamped

    def write_status(self, status: dict[str, Any]) -> None:
        """Replace status.json; a reader sees the old one or the new one, never half."""
        _replace(self.status_file, _dumps(status) + "\n")

    def write_plan(self, text: str) -> None:
        """Replace plan.json, durably."""
        _replace(self.plan_file, text, durable=True)

    def write_job(self, text: str) -> None:
        """Replace job.yaml, durably."""
        _replace(self.job_file, text, durable=True)

    def write_report(self, text: str) -> None:
        """Replace report.html; the old page stays until the new one is whole."""
        _replace(self.report_file, text)

    def write_controller(self, address: dict[str, Any]) -> None:
        """How to reach the controller (host, port, pid, token): readable by this user alone."""
        _replace(self.controller_file, _dumps(address) + "\n", mode=0o600)

    def remove_controller(self) -> None:
        """Forget the controller's address when it ends. No error when it is gone already."""
        self.controller_file.unlink(missing_ok=True)

    def read_metrics(self) -> list[MetricsRow]:
        """All rows in the order written, rewound ones too. A torn last line is left out."""
        return [_decode_numbers(row) for row in _read_lines(self.metrics_file)]

    def latest_metrics(self) -> list[MetricsRow]:
        """The rows of the run's present history, one a step: what a later attempt rewound is
        dropped."""
        return live_rows(self.read_metrics())

    def read_events(self) -> list[Event]:
        """All events in the order written. A torn last line is left out."""
        return [
            _parse_event(self.events_file, number, fields)
            for number, fields in enumerate(_read_lines(self.events_file), 1)
        ]

    def read_status(self) -> dict[str, Any] | None:
        """status.json, or None when the run has not come so far."""
        return _read_json(self.status_file)

    def read_controller(self) -> dict[str, Any] | None:
        """controller.json, or None when no controller runs (or none has begun)."""
        return _read_json(self.controller_file)

    def read_plan(self) -> Plan | None:
        """plan.json, or None when the run ended before it had one."""
        text = _read_text(self.plan_file)
        return None if text is None else Plan.from_json(text)

    def read_job(self) -> str:
        """The resolved job file's text; empty when the run ended before it was written."""
        return _read_text(self.job_file) or ""

    def _append(self, path: Path, record: dict[str, Any]) -> None:
        line = (_dumps(record) + "\n").encode()
        with self._lock:
            if path not in self._repaired:
                _drop_torn_tail(path)
                self._repaired.add(path)
            try:
                fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
                try:
                    _write_all(fd, line)
                finally:
                    os.close(fd)
            except OSError as error:
                self._repaired.discard(path)  # half a line may stand there now
                raise LaunchError(
                    f"{path}: cannot append: {error.strerror}; make room or mend it, then resume"
                ) from error


def _parse_event(path: Path, number: int, fields: dict[str, Any]) -> Event:
    try:
        return from_json(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "kind"
        raise LaunchError(
            f"{path}:{number}: an event of kind {fields.get('kind')!r} that this release cannot read"
            f" ({place}: {first['msg']}); open the run with the release that wrote it"
        ) from error


def live_rows(rows: Iterable[MetricsRow]) -> list[MetricsRow]:
    """Drop what was rewound: a row for step s makes every earlier-written row of a step >= s past
    history."""
    live: list[MetricsRow] = []
    for row in rows:
        while live and live[-1]["step"] >= row["step"]:
            live.pop()
        live.append(row)
    return live


def _guess(path: Path) -> str:
    inner = [p.parent for p in path.glob("*/events.jsonl")]
    if inner:
        newest = max(inner, key=lambda p: (p / "events.jsonl").stat().st_mtime)
        return f"; did you mean {newest}?"
    outer = [p for p in path.absolute().parents if (p / "events.jsonl").is_file()]
    return (
        f"; did you mean {outer[0]}?"
        if outer
        else "; give the directory that `dougong run` printed"
    )


def _dumps(value: Any) -> str:
    return json.dumps(_encode_numbers(value), ensure_ascii=False, allow_nan=False)


def _encode_numbers(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _encode_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode_numbers(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _decode_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decode_numbers(item) for key, item in value.items()}
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _drop_torn_tail(path: Path) -> None:
    """Cut what a killed controller left after the last newline, so that the next line starts a
    line."""
    try:
        with path.open("r+b") as file:
            data = file.read()
            if data and not data.endswith(b"\n"):
                file.truncate(data.rfind(b"\n") + 1)
    except FileNotFoundError:
        return


def _replace(path: Path, text: str, mode: int = 0o666, durable: bool = False) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            _write_all(fd, text.encode())
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise LaunchError(
            f"{path}: cannot be written: {error.strerror}; make room or mend it, then resume"
        ) from error


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _read_json(path: Path) -> dict[str, Any] | None:
    text = _read_text(path)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise LaunchError(
            f"{path}: not JSON ({error}); it is written by dougong alone, restore it"
        ) from error
    if not isinstance(value, dict):
        raise LaunchError(
            f"{path}: holds a {type(value).__name__}, not an object; it is written by dougong alone"
        )
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of JSON objects. Text after the last newline is still being written, or was torn:
    left out."""
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return []
    return [
        _parse(path, number, line)
        for number, line in enumerate(whole.split(b"\n") if whole else [], 1)
    ]


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise LaunchError(
            f"{path}:{number}: not JSON ({error}); restore the line or delete it"
        ) from error
    if not isinstance(record, dict):
        raise LaunchError(
            f"{path}:{number}: holds a {type(record).__name__}, not an object; restore or delete it"
        )
    return record
