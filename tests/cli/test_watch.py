"""`dougong status`, `logs` and `stop` of a run that has ended; tests/launcher/test_run.py does it with live ones."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from dougong.cli.watch import logs, standing_of, status, stop
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.records.directory import RunDir
from dougong.records.status import ControllerAddress
from tests.leases import held
from tests.ui.recorded import Recorder, finished_run
from typer.testing import CliRunner, Result

WORKERS = [
    {
        "name": f"east/{number}", "host": "node-a", "pid": 11 + number, "device": f"cpu:{number}", "role": "both",
        "lanes": [2 * number, 2 * number + 1], "experts": experts, "alive": number == 0, "phase": "forward", "step": 8,
    }
    for number, experts in enumerate(([[0, 1], [0, 1]], "2-3 x2"))
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.create(tmp_path / "run")
    run.write_job("job: toy\n")
    status = {"job": "toy", "state": "STOPPED", "generation": 2, "step": 7, "steps": 20, "workers": WORKERS}
    run.status_file.write_text(json.dumps(status))
    for worker in ("east/0", "east/1"):
        log = run.log_file(1, worker)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"hello from {worker}\n")
    return run


def call(command: Callable[..., None], *words: str | Path) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_status_for_people_shows_lists_and_older_runs_text_alike(run: RunDir) -> None:
    head, names, first, second, last = call(status, run.path).stdout.splitlines()
    assert head == "toy: stopped, step 7 of 20, generation 2"
    assert names.split() == ["worker", "host", "pid", "device", "role", "lanes", "experts", "now"]
    assert first.split() == ["east/0", "node-a", "11", "cpu:0", "both", "0-1", "0-1", "forward", "of", "step", "8"]
    assert second.split()[-3:] == ["2-3", "2-3", "ended"]
    assert last == f"next: dougong run FILE --run-dir {run.path}"  # there is no checkpoint to go on from


def test_status_for_programs_is_what_the_run_wrote(run: RunDir) -> None:
    found: dict[str, Any] = json.loads(call(status, run.path, "--json").stdout)
    assert (found["loss"], found["checkpoint"], found["next"][:11]) == (None, None, "dougong run")
    assert found["state"] == "STOPPED" and [w["name"] for w in found["workers"]] == ["east/0", "east/1"]


def test_a_lost_run_is_resumed_next(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    recorder.generation(1)
    recorder.train(1, 1, 29)
    head, numbers, *_, last = call(status, recorder.path).stdout.splitlines()
    assert head == ": lost, step 29 of 60, generation 1"
    assert numbers.startswith("loss 2.4690, 7,847 tokens/s, last step ") and "checkpoint of step 20" in numbers
    assert last == f"next: dougong resume {recorder.path}"
    found = json.loads(call(status, recorder.path, "--json").stdout)
    assert (found["step"], found["checkpoint"]["step"], found["eta_s"], found["next"]) == (
        29, 20, None, f"dougong resume {recorder.path}"
    )  # fmt: skip


@pytest.mark.parametrize("text", [None, "{"])
def test_a_status_that_is_gone_or_damaged_is_told_from_the_other_files(tmp_path: Path, text: str | None) -> None:
    run = finished_run(tmp_path / "run")
    run.status_file.unlink()
    if text is not None:
        run.status_file.write_text(text)
    result = call(status, run.path)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "quickstart: finished, step 60 of 60, generation 2")
    assert result.stderr.startswith(f"note: {run.status_file}") and "the run's other files say" in result.stderr


@pytest.mark.parametrize("damaged", [3, -1], ids=["early", "last"])
def test_a_damaged_row_hides_neither_the_status_nor_itself(tmp_path: Path, damaged: int) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    recorder.generation(1)
    recorder.train(1, 1, 29)
    file = recorder.run.metrics_file
    lines = file.read_text().splitlines()
    lines[damaged] = lines[damaged][:-9]
    file.write_text("\n".join([*lines, ""]))
    done = call(status, recorder.path)
    assert done.exit_code == 0 and done.stdout.startswith(": lost, step ")
    place = f"{file}:{range(1, 30)[damaged]}"
    assert done.stderr.startswith(f"note: {place}: not JSON (") and "restore the line or delete it" in done.stderr
    assert place in json.loads(call(status, recorder.path, "--json").stdout)["note"]


def test_a_controller_that_does_not_answer_is_told_with_what_ends_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    recorder.generation(1)
    recorder.train(1, 1, 29)
    here = socket.gethostname()
    with socket.create_server(("127.0.0.1", 0)) as silent, held(recorder.run) as run:
        host, port = silent.getsockname()
        address = ControllerAddress(host=host, port=port, pid=4711000, token="secret", machine=here)
        run.write_controller(address)
        found = standing_of(recorder.run, dataclasses.replace(DEADLINES, client_answer_s=0.2))
    assert (found.status.state, found.eta_s) == ("RUNNING", None)
    assert found.lines()[-1] == (
        f"its controller (process 4711000 on {here}) is there and does not answer: it is stopped or hangs"
    )
    assert found.next_command == (
        f"`kill -CONT 4711000` on {here} wakes it, `kill -9 4711000` ends it, then: dougong resume {recorder.path}"
    )


def test_logs_of_all_and_of_one(run: RunDir) -> None:
    everybody = call(logs, run.path).stdout.splitlines()
    assert sorted(everybody) == ["east/0 | hello from east/0", "east/1 | hello from east/1"]
    assert call(logs, run.path, "east/1").stdout == "hello from east/1\n"


def test_logs_of_a_worker_that_is_not_there(run: RunDir) -> None:
    refused = call(logs, run.path, "west/0").exception
    assert isinstance(refused, LaunchError)
    assert "no log of a worker 'west/0'; there are logs of east/0, east/1" in str(refused)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["east/2"], "east/2 has printed nothing in generation 1"),
        ([], "east/2-3 have printed nothing in generation 1"),
        (["east/0"], ""),
    ],
)
def test_who_has_printed_nothing_is_told(run: RunDir, words: list[str], said: str) -> None:
    for worker in ("east/2", "east/3"):
        run.log_file(1, worker).touch()
    result = call(logs, run.path, *words)
    assert (result.exit_code, result.stderr.strip()) == (0, said)


def test_a_run_without_workers_says_where_to_look(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "early")
    run.write_job("job: toy\n")
    assert call(logs, run.path).stderr == (
        f"no worker has begun; `dougong logs {run.path} -g 0` shows the looks before the start\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-g", "9"], "no log in generation 9; there are logs of generations 1-2"),
        (["east/1", "-g", "2"], "no log of east/1 in generation 2; there are logs of east/1 of generation 1"),
    ],
)
def test_a_generation_that_is_not_there(run: RunDir, words: list[str], said: str) -> None:
    log = run.log_file(2, "east/0")
    log.parent.mkdir(parents=True)
    log.write_text("again\n")
    refused = call(logs, run.path, *words).exception
    assert isinstance(refused, LaunchError) and said in str(refused)


def test_a_run_that_has_ended_is_stopped_already(run: RunDir) -> None:
    assert call(stop, run.path).stdout == "stopped at step 7 of 20\n"
