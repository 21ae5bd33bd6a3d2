"""The numbers at the head of the page, and the log that explains a failure."""

from __future__ import annotations

import math
from pathlib import Path

from dougong.records.directory import RunDir
from dougong.records.events import RunCreated, RunEnded
from dougong.ui.history import read_history
from dougong.ui.report.summary import read_log_tail, summary_cards
from tests.ui.recorded import Recorder, failed_run, finished_run


def test_the_cards_of_a_finished_run(tmp_path: Path) -> None:
    cards = {card.label: card for card in summary_cards(read_history(finished_run(tmp_path / "run")))}
    assert (cards["Steps"].value, cards["Steps"].more) == ("60 / 60", "100 %")
    assert cards["Final loss"].value == "2.0852"
    assert cards["Tokens/s"].more == "245,760 tokens, 4,096 a step"
    assert (cards["Goodput"].value, cards["Goodput"].more) == ("76.9 %", "9 steps computed again")
    assert (cards["Failures"].value, cards["Failures"].more) == ("1", "9 steps lost, 0.84 s to recover")


def test_a_run_without_a_step_has_no_card_of_what_it_does_not_have(tmp_path: Path) -> None:
    cards = {card.label: card for card in summary_cards(read_history(RunDir.create(tmp_path / "run")))}
    assert list(cards) == ["Steps", "Time", "Failures"]
    assert cards["Failures"].more == "none"


def test_a_loss_that_is_not_finite_is_marked(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.run.append_metrics({**recorder.row(1, 1), "loss": math.nan})
    found = [(card.label, card.value) for card in summary_cards(read_history(recorder.run)) if card.is_broken]
    assert found == [("Last loss", "nan")]


def test_the_log_of_the_worker_that_failed(tmp_path: Path) -> None:
    run = failed_run(tmp_path / "run")
    log = run.log_file(2, "east/0")
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    tail = read_log_tail(read_history(run), run)
    assert tail is not None and tail.path == Path("logs/2/east/0.log")
    assert tail.text.splitlines() == [f"line {number}" for number in range(99_980, 100_000)]


def test_a_run_that_did_not_fail_has_none(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    assert read_log_tail(read_history(run), run) is None


def test_a_run_that_failed_before_it_had_workers_has_failed_once(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.append_event(RunCreated(generation=0, job="toy"))
    run.append_event(RunEnded(kind="failed", generation=0, step=0, cause="no such data", failure="data"))
    cards = {card.label: card for card in summary_cards(read_history(run))}
    assert (cards["Failures"].value, cards["Failures"].more) == ("1", "the run's own")


def test_the_steps_are_those_that_count(tmp_path: Path) -> None:
    """A generation that has begun at an earlier step has lost what lies beyond, though nobody has computed it again."""
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    recorder.generation(1)
    recorder.train(1, 1, 29)
    recorder.kill(1, "east/1", 30)
    recorder.generation(2, "step-000020", 20)
    history = read_history(recorder.run)
    cards = {card.label: card for card in summary_cards(history)}
    assert (cards["Steps"].value, cards["Steps"].more) == ("20 / 60", "33 %")
    assert cards["Goodput"].more == "9 steps lost, 0 of them computed again"
    assert history.tokens == 20 * 4096 and [len(stretch) for stretch in history.rewound] == [9]
