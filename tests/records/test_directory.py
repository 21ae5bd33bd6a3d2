"""The run directory: claims, atomic writes, and readers that meet a writer killed at any byte."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import stat
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from dougong.errors import LaunchError, RecordError
from dougong.parallel.plan import Plan, Worker
from dougong.records.directory import RunDir
from dougong.records.events import RunCreated, WarningRaised, WorkerDied
from dougong.records.status import ControllerAddress, RunStatus
from hypothesis import given, settings
from hypothesis import strategies as st


def make_run(path: Path) -> RunDir:
    run = RunDir.create(path)
    run.write_job("job: tiny\n")
    return run


def test_create_then_open(tmp_path: Path) -> None:
    make_run(tmp_path / "deep" / "run")
    run = RunDir.open(tmp_path / "deep" / "run")
    assert run.read_job() == "job: tiny\n"
    assert run.checkpoints.is_dir()
    assert (run.read_metrics(), run.read_events()) == ([], [])
    assert (run.read_status(), run.read_plan(), run.read_controller()) == (None, None, None)


@pytest.mark.parametrize("leftover", ["job.yaml", "events.jsonl", "metrics.jsonl", "checkpoints"])
def test_create_refuses_an_existing_run(tmp_path: Path, leftover: str) -> None:
    if leftover == "checkpoints":
        (tmp_path / leftover / "step-000005").mkdir(parents=True)
    else:
        (tmp_path / leftover).write_text("")
    with pytest.raises(LaunchError, match=rf"holds a run already \({leftover}\).*dougong resume"):
        RunDir.create(tmp_path)


def test_create_accepts_a_directory_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunDir.create(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_create_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(LaunchError, match="a file lies there"):
        RunDir.create(tmp_path / "x")
    with pytest.raises(LaunchError, match="a file lies there"):
        RunDir.create(tmp_path / "x" / "y")


def test_open_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="no such directory"):
        RunDir.open(tmp_path / "absent")
    with pytest.raises(LaunchError, match=r"job\.yaml and events\.jsonl missing"):
        RunDir.open(tmp_path)
    (tmp_path / "job.yaml").write_text("")
    with pytest.raises(LaunchError, match=r"not a run directory: events\.jsonl missing"):
        RunDir.open(tmp_path)


def committed(run: RunDir) -> Path:
    """A directory that claims to be a checkpoint."""
    place = run.checkpoints / "step-000012"
    place.mkdir()
    return place


def test_a_run_whose_events_are_gone_is_a_run(tmp_path: Path) -> None:
    """A resume tells what is lost with them."""
    run = make_run(tmp_path / "run")
    committed(run)
    run.events_file.unlink()
    assert RunDir.open(run.path).read_events() == []


@pytest.mark.parametrize("has_events", [True, False])
def test_a_run_whose_job_is_gone_says_what_brings_it_back(tmp_path: Path, has_events: bool) -> None:
    run = make_run(tmp_path / "run")
    manifest = committed(run) / "manifest.json"
    command = ("__main__.py", "run", "tiny job.yaml", "-o", "steps=12")
    run.append_event(RunCreated(generation=1, job="tiny", command=command))
    run.job_file.unlink()
    began = " (`dougong run 'tiny job.yaml' -o steps=12`)" if has_events else ""
    if not has_events:
        run.events_file.unlink()
    with pytest.raises(LaunchError) as caught:
        RunDir.open(run.path)
    assert str(caught.value) == (
        f"{run.job_file}: is gone, and the run goes on by it; put it back from a copy, or write it anew from the job "
        f"file that the run began with{began}, with the same -o: `dougong check FILE --print > {run.job_file}`; the "
        f"values of it that fix the bits are in {manifest} (body.header.job)"
    )


def test_open_guesses_which_directory_was_meant(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "a")
    with pytest.raises(LaunchError, match=f"did you mean {run.path}"):
        RunDir.open(tmp_path / "runs")
    with pytest.raises(LaunchError, match=f"did you mean {run.path}"):
        RunDir.open(run.checkpoints)


def test_log_files(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    names = [(2, "east/10"), (2, "east/9"), (1, "west/0")]
    for generation, worker in names:
        path = run.log_file(generation, worker)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert run.log_file(1, "west/0") == tmp_path / "logs" / "1" / "west" / "0.log"
    assert list(run.log_files()) == [(1, "west/0"), (2, "east/9"), (2, "east/10")]


@pytest.mark.parametrize("name", ["east", "/1", "../1", "./1", "east/x", "east/1/2", "east/-1", ""])
def test_log_file_refuses_what_is_no_worker(tmp_path: Path, name: str) -> None:
    with pytest.raises(LaunchError, match="no worker's name"):
        RunDir(tmp_path).log_file(1, name)


def test_events_carry_both_clocks_and_the_generation(tmp_path: Path) -> None:
    east = timezone(timedelta(hours=8))
    run = RunDir(tmp_path, monotonic=lambda: 12.5, now=lambda: datetime(2025, 1, 2, 3, 4, 5, 678000, tzinfo=east))
    died = WorkerDied(generation=3, worker="east/1", failure="crash", cause="signal 9 (SIGKILL)", monotonic_s=-1)
    event = run.append_event(died)
    assert json.loads(run.events_file.read_text()) == {
        "kind": "worker_died", "generation": 3, "fence": 0, "monotonic_s": 12.5, "wall": "2025-01-01T19:04:05.678Z",
        "worker": "east/1", "node": "", "class": "crash", "cause": "signal 9 (SIGKILL)",
    }  # fmt: skip
    assert run.read_events() == [event]


def test_a_torn_last_line_is_left_out_at_every_byte_and_repaired_by_the_next_writer(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    rows = [{"generation": 1, "step": s, "loss": 5.5 / s, "note": "östlich"} for s in (1, 2)]
    rows = [run.append_metrics(row) for row in rows]
    data = run.metrics_file.read_bytes()
    first = data.index(b"\n") + 1
    for cut in range(first, len(data)):
        run.metrics_file.write_bytes(data[:cut])
        assert RunDir(tmp_path).read_metrics() == rows[:1]
        written = RunDir(tmp_path).append_metrics({"generation": 2, "step": 2})
        assert RunDir(tmp_path).read_metrics() == [rows[0], written]


def test_a_row_says_when_it_was_written(tmp_path: Path) -> None:
    now = datetime(2025, 1, 2, 3, 4, 5, 678000, tzinfo=timezone.utc)
    run = RunDir(tmp_path, lambda: 7.25, lambda: now)
    row = run.append_metrics({"generation": 1, "step": 2})
    clocks = {"wall": "2025-01-02T03:04:05.678Z", "monotonic_s": 7.25}
    assert row == {"generation": 1, "step": 2, "fence": 0, **clocks}
    assert run.read_metrics() == [row]


def test_a_row_of_an_earlier_release_is_read_by_todays_names(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.metrics_file.write_text('{"attempt": 2, "step": 5, "loss": 1.5}\n')
    assert run.read_metrics(["generation"]) == [{"generation": 2, "step": 5, "loss": 1.5}]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.metrics_file.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(LaunchError, match=r"metrics\.jsonl:2: not JSON"):
        run.read_metrics()
    run.metrics_file.write_text("[1]\n")
    with pytest.raises(LaunchError, match=r"metrics\.jsonl:1: holds a list"):
        run.read_metrics()


@given(loss=st.floats(), grad_norm=st.floats())
@settings(deadline=None)
def test_numbers_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, loss: float, grad_norm: float) -> None:
    run = RunDir(tmp_path_factory.mktemp("run"))
    run.append_metrics({"step": 1, "loss": loss, "islands": {"east": {"compute_s": grad_norm}}})
    json.loads(run.metrics_file.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    (row,) = run.read_metrics()
    for written, read in ((loss, row["loss"]), (grad_norm, row["islands"]["east"]["compute_s"])):
        assert (math.isnan(written) and math.isnan(read)) or (written.hex() == read.hex())


def _read_until_whole(path: Path, expected: int) -> None:
    run = RunDir(path)
    while len(run.read_events()) < expected:
        continue


def test_lines_of_several_threads_do_not_mix_and_a_reading_process_sees_whole_ones(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    reader = multiprocessing.get_context("spawn").Process(target=_read_until_whole, args=(tmp_path, 600), daemon=True)
    reader.start()

    def append_many(generation: int) -> None:
        for index in range(200):
            text = f"{index} " + "x" * (index * 7 % 900)
            run.append_event(WarningRaised(generation=generation, text=text))

    threads = [threading.Thread(target=append_many, args=(generation,)) for generation in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    reader.join(60)
    assert reader.exitcode == 0
    events = run.read_events()
    for generation in range(3):
        assert [int(e.text.split()[0]) for e in events if e.generation == generation] == list(range(200))


def test_status_is_never_seen_half(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    done = threading.Event()

    def write() -> None:
        for step in range(300):
            run.write_status(RunStatus(job="x" * (step * 50), step=step, steps=step))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = 0
    while not done.is_set() or not seen:
        status = run.read_status()
        if status is not None:
            assert (status.steps, len(status.job)) == (status.step, 50 * status.step)
            seen += 1
    thread.join(60)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_controller_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    address = ControllerAddress(host="localhost", port=1, pid=2, token="secret", machine="forge")
    old = os.umask(0)
    try:
        run.write_controller(address)
    finally:
        os.umask(old)
    assert stat.S_IMODE(run.address_file(0).stat().st_mode) == 0o600
    assert run.read_controller() == address
    assert "secret" not in repr(address)
    run.remove_controller()
    run.remove_controller()
    assert run.read_controller() is None


def test_plan_comes_back(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    plan = Plan(1, 2, (Worker("east/0", 0, "east", "both", "here", "cpu", (0,), ((0, 1),)),), {"a": 0})
    run.write_plan(plan.to_json())
    assert run.read_plan() == plan


def test_an_append_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.metrics_file.mkdir()
    with pytest.raises(LaunchError, match=r"metrics\.jsonl: cannot append: Is a directory; make room or mend it"):
        run.append_metrics({"step": 1})


def test_a_file_that_cannot_be_replaced_says_so_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.report_file.mkdir()
    with pytest.raises(LaunchError, match=r"report\.html: cannot be written: Is a directory"):
        run.write_report("page")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_rows_come_one_by_one_too(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.append_metrics({"attempt": 1, "step": 1, "loss": float("nan")})
    (row,) = run.stream_metrics()
    assert row["step"] == 1 and math.isnan(row["loss"])
    run.metrics_file.write_text('{"attempt": 1}\n')
    with pytest.raises(RecordError, match="metrics.jsonl:1: not a row of a step"):
        list(run.stream_metrics())


def test_the_present_history(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    rows = [{"generation": number, "step": step} for number, step in [(1, 1), (1, 2), (1, 3), (2, 2)]]
    rows = [run.append_metrics(row) for row in rows]
    assert run.latest_metrics() == [rows[0], rows[3]]
    assert run.read_metrics() == rows


def test_what_a_controller_writes_that_another_has_followed_is_passed_over(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first, second = run.of_writer(1), run.of_writer(2)
    for writer, step in ((first, 1), (second, 2), (first, 3), (second, 4)):
        writer.append_event(WorkerDied(generation=1, worker="a/0", failure="crash", cause=str(step)))
        writer.append_metrics({"generation": 1, "step": step})
    assert [event.cause for event in run.read_events() if isinstance(event, WorkerDied)] == ["1", "2", "4"]
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 4]
    assert [row["step"] for row in run.stream_metrics()] == [1, 2, 4]
    assert [row["step"] for row in run.read_last_metrics()] == [1, 2, 4]
