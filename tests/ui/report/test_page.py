"""The page: whole, self-contained, escaped, and right for a run in any state."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from dougong.cli import report
from dougong.errors import LaunchError
from dougong.records.directory import RunDir
from dougong.records.events import RunEnded
from dougong.ui.report.page import write_report
from tests.ui.recorded import Recorder, failed_run, finished_run, running_run
from typer.testing import CliRunner

VOID = {"meta", "br", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects headings, scripts and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def page_of(run: RunDir) -> Page:
    path = write_report(run)
    assert path == run.path / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def bare_run(path: Path) -> RunDir:
    return RunDir.create(path)


@pytest.mark.parametrize("make", [finished_run, failed_run, running_run, bare_run])
def test_the_page_is_self_contained_and_whole(make: Callable[[Path], RunDir], tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    page = page_of(run)
    assert "script" not in page.seen
    assert page.addresses == []
    text = run.report_file.read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://", text)
    assert [p.name for p in run.path.iterdir() if p.name.startswith(".")] == []


def test_links_between_islands_are_told_below_the_layout(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", islands={"east": 1, "west": 2})
    recorder.start()
    assert "Between islands" not in page_of(recorder.run).words
    link = {"one": "east/0", "other": "west/1", "islands": ["east", "west"], "path": "host-staged", "facts": "<gloo>",
            "latency_s": 2e-4, "bytes_per_s": 9.5e8}  # fmt: skip
    recorder.event("links", 1, links=[link])
    words = page_of(recorder.run).words
    assert "Between islands, links: east/0 - west/1: host-staged, 950 MB/s, 0.2 ms; <gloo>" in words


def test_a_finished_run_has_every_section(tmp_path: Path) -> None:
    words = page_of(finished_run(tmp_path / "run")).words
    for expected in ("quickstart finished", "of 60, 100 %", "2.0852", "245,760", "9 steps lost",
                     "Failures and recoveries", "killed by signal 9 (SIGKILL), as rehearsed",
                     "noticed 4 ms", "resumed from step-000020",
                     "Experts of 16", "8–15", "Lanes of 4", "step-000040", "37.2 MiB", "read back and compared",
                     "later removed", "training again at step 21", "Example CPU @ 2.60GHz", "2.13.0",
                     "dougong run examples/quickstart.yaml", "drill: [{at_step: 30, kill: east/1}]"):  # fmt: skip
        assert expected in words, expected


def test_a_run_tells_where_its_time_went_its_faults_and_what_is_known_of_its_bits(tmp_path: Path) -> None:
    words = page_of(finished_run(tmp_path / "run")).words
    for expected in ("Goodput 76.9 % of 40 s, 9 steps computed again", "training 76.9 %, 31 s",
                     "start-up 9.0 %, 3.6 s",
                     "crash drill: kill killed by signal 9 (SIGKILL), as rehearsed east/1 4 ms 5 ms 0.84 s 9 "
                     "trained again state from step-000020",
                     "steps were computed twice, and not compared"):  # fmt: skip
        assert expected in words, expected


def test_a_run_without_a_fault_or_without_anything_has_no_empty_table(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    recorder.generation(1)
    recorder.train(1, 1, 3)
    words = page_of(recorder.run).words
    assert "Goodput" in words and "no step was computed twice" in words and "Faults" not in words
    words = page_of(bare_run(tmp_path / "bare")).words
    assert "Goodput" not in words and "Faults" not in words and "Bits" not in words


def test_torn_last_lines_cost_those_lines_alone(tmp_path: Path) -> None:
    run = running_run(tmp_path / "run")
    for file in (run.events_file, run.metrics_file):
        file.write_bytes(file.read_bytes()[:-9])
    words = page_of(run).words
    assert "9 steps lost, 4 of them computed again" in words
    assert "not over yet" in words, "the line that is torn told the first step after the fault"


def test_the_loss_chart_shows_rewound_steps_and_failures(tmp_path: Path) -> None:
    text = write_report(finished_run(tmp_path / "run")).read_text(encoding="utf-8")
    assert text.count('class="line rewound"') == 2  # the line and its legend
    assert text.count("<title>east/1: killed by signal 9 (SIGKILL), as rehearsed, after step 29</title>") == 5
    assert "<title>step 40\ntraining" in text


def test_a_failed_run_says_who_why_and_what_to_type(tmp_path: Path) -> None:
    run = failed_run(tmp_path / "run")
    page = page_of(run)
    assert 'Failed: east/0 RuntimeError: <script>alert("x")</script> & loss is nan' in page.words
    assert f"Next: dougong verify {run.path}" in page.words
    assert "The last lines of logs/2/east/0.log" in page.words
    assert "Not followed by another step" in page.words
    assert "rejected: optimizer/rank00001: digest differs" in page.words
    assert "<script" not in run.report_file.read_text(encoding="utf-8")


def test_a_run_that_failed_before_its_first_step_begins_with_why_and_shows_no_empty_chart(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    for number in (1, 2):
        recorder.generation(number)
        recorder.event("worker_died", number, worker="east/0", cause="out of memory", **{"class": "out_of_memory"})
    recorder.event("failed", 2, step=0, worker="east/0", cause="out of memory")
    log = recorder.run.log_file(1, "east/0")
    log.parent.mkdir(parents=True)
    log.touch()
    page = page_of(recorder.run)
    head, _, rest = page.words.partition("Steps 0 of 60")
    assert "Failed: east/0 out of memory Next: " in head
    assert "Its log, logs/1/east/0.log, is empty: the worker printed nothing." in head
    assert "Training" not in rest and "no numbers yet" not in rest and "svg" in page.seen
    assert rest.count("2 times, generations 1-2") == 1


def test_warnings_stand_at_the_head(tmp_path: Path) -> None:
    words = page_of(finished_run(tmp_path / "run")).words
    head, _, _ = words.partition("Steps 60 / 60")
    assert "1 warning [east/0-1] grad norm 3.2 above clip_norm 1.0 for 5 steps" in head


def test_a_run_that_goes_on_says_so_and_can_be_drawn_again(tmp_path: Path) -> None:
    run = running_run(tmp_path / "run")
    assert "Not over yet: last event" in page_of(run).words
    run.append_event(RunEnded(kind="stopped", generation=2, step=25))
    assert "Stopped on request" in page_of(run).words


def test_everything_a_user_can_name_is_escaped(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>&amp;'
    recorder = Recorder(tmp_path / "run")
    recorder.start(command=f"dougong run {evil}")
    recorder.run.write_job(f"job: {evil}\nsteps: 60\n")
    recorder.event(
        "created", 0, job=evil, command=[evil], machine={"host": evil, "cpu": evil, "versions": {evil: evil}}
    )
    recorder.event("decision", 1, action=evil, reason=evil)
    recorder.event("worker_died", 1, worker=evil, cause=evil, **{"class": evil})
    recorder.event("checkpoint_committed", 1, step=3, directory=evil, bytes=1, seconds=1)
    recorder.event("agents_started", 1, agents=[{"node": evil, "island": evil}, {"node": evil, "island": "west"}])
    recorder.run.append_metrics({**recorder.row(1, 1), "islands": {evil: {"compute_s": 1.0}, "b": {"compute_s": 2.0}}})
    page = page_of(recorder.run)
    assert "script" not in page.seen
    assert page.words.count(evil) >= 9


def test_broken_numbers_do_not_break_the_page(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    for step, loss in enumerate([float("nan"), 2.0, float("inf"), 1.5, float("nan")], 1):
        recorder.run.append_metrics({**recorder.row(1, step), "loss": loss, "grad_norm": None, "val_loss": loss})
    assert "Last loss nan validation nan at step 5" in page_of(recorder.run).words


def test_the_validation_loss_of_each_source_of_a_mixture_is_shown(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    row = {**recorder.row(1, 1), "val_loss": 2.5, "val_by_source": {"mixture.0": 2.0, "mixture.1": float("nan")}}
    recorder.run.append_metrics(row)
    assert "validation 2.5000 at step 1 (mixture.0 2.0000, mixture.1 nan)" in page_of(recorder.run).words


def test_a_long_run_stays_a_small_page(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", steps=6_000)
    recorder.start()
    recorder.generation(1)
    lines = []
    for step in range(1, 6_001):
        lines.append(recorder.row(1, step))
    with recorder.run.metrics_file.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in lines)
    for step in range(400):
        recorder.event("note", 1, text=f"note {step}")
    page = page_of(recorder.run)
    assert recorder.run.report_file.stat().st_size < 1_500_000
    assert "older events" in page.words


def test_an_old_page_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    before = write_report(run).read_text(encoding="utf-8")
    run.events_file.write_text("{broken\n")
    with pytest.raises(LaunchError, match=r"events\.jsonl:1"):
        write_report(run)
    assert run.report_file.read_text(encoding="utf-8") == before


def test_the_arithmetic_s_class_is_told_by_island(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", islands={"east": 2, "west": 1})
    recorder.start()
    assert "Arithmetic" not in page_of(recorder.run).words
    recorder.event("fingerprints", 1, classes={"east/0": "aa", "east/1": "aa", "west/0": "bb"}, seconds=1.0)
    recorder.event("warning", 1, text="west/0: the same call gives different bits: sum", workers=[])
    words = page_of(recorder.run).words
    assert "Arithmetic, by fingerprint: east aa, west bb" in words
    assert "the same call gives different bits: sum" in words


def test_the_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report.report)
    run = finished_run(tmp_path / "run")
    done = CliRunner().invoke(app, [str(run.path)])
    assert (done.exit_code, done.stdout.strip()) == (0, str(run.report_file))
    assert done.stderr.startswith("quickstart: finished at step 60/60")
    assert run.report_file.exists()
    refused = CliRunner().invoke(app, [str(tmp_path)])
    assert isinstance(refused.exception, LaunchError)
