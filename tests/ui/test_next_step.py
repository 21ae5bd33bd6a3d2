"""The next step that is offered is one that works."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from dougong.records.directory import RunDir
from dougong.records.events import (
    CheckpointCommitted,
    CheckpointRejected,
    Event,
    FirstStep,
    GenerationStarted,
    RunCreated,
    RunEnded,
    StepSkipped,
)
from dougong.ui.next_step import after_refusal, next_step, typed

RUN = ("dougong", "run", "job.yaml", "--no-ray")
COMMITTED = CheckpointCommitted(generation=1, step=5, directory="step-000005", num_bytes=1, seconds=0.1)
REJECTED = CheckpointRejected(generation=2, directory="step-000005", reason="digest differs")
CRASH = RunEnded(kind="failed", generation=1, step=3, cause="SIGKILL", worker="east/0", failure="crash")
MISTAKE = RunEnded(kind="failed", generation=0, step=0, cause="no such file", failure="data")


def created(*words: str) -> RunCreated:
    return RunCreated(generation=1, job="tiny", command=words)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return RunDir.create(tmp_path / "r").path


def said(path: Path, state: str, events: Sequence[Event], *on_storage: str) -> str:
    for name in on_storage:
        (path / "checkpoints" / name).mkdir()
    return str(next_step(path, state, events)).replace(str(path), "R")


@pytest.mark.parametrize(
    ("words", "again"),
    [
        ("resume R --no-ray -o a=1 -ob=2 --override c=3 --override=d=4", "-o a=1 -ob=2 --override c=3 --override=d=4"),
        ("resume R -o 'a=[1, 2]' --step 5 --take-over", "-o 'a=[1, 2]' --step 5"),
        ("resume R --step=5 --from-scratch", "--step=5 --from-scratch"),
        ("start job.yaml --run-dir R -o a=1", ""),  # over another file than the run's own
    ],
)
def test_after_a_refusal_what_was_typed_is_typed_again(path: Path, words: str, again: str) -> None:
    told = str(after_refusal(path, [created(*RUN)], shlex.split(words))).replace(str(path), "R")
    assert told == f"mend what it names, then: dougong resume R --no-ray {again}".rstrip()


@pytest.mark.parametrize(
    ("state", "command"),
    [
        ("finished", "dougong export R OUT"),
        ("running", "dougong status R"),
        ("recovering", "dougong status R"),
        ("stopped", "dougong resume R --no-ray"),
        ("lost", "dougong resume R --no-ray"),
        ("failed", "dougong resume R --no-ray"),
    ],
)
def test_with_a_checkpoint_a_run_goes_on(path: Path, state: str, command: str) -> None:
    assert said(path, state, [created(*RUN), COMMITTED], "step-000005") == command
    # The event of a commit may be lost with its controller.
    assert said(path, state, [created(*RUN)]) == command


@pytest.mark.parametrize("state", ["stopped", "lost", "failed"])
def test_without_a_checkpoint_nothing_is_resumed(path: Path, state: str) -> None:
    again = "dougong run job.yaml --no-ray --run-dir R"
    assert said(path, state, [created(*RUN), CRASH]) == again
    # It was committed once, and its directory is gone.
    assert said(path, state, [created(*RUN), COMMITTED, CRASH]) == ("dougong resume R --no-ray --from-scratch")
    # A directory that the command named is named once.
    assert said(path, state, [created(*RUN, "--run-dir", str(path)), CRASH]) == again
    assert said(path, state, [created("dougong", "resume", "R"), CRASH]) == "dougong run FILE --run-dir R"


def test_what_workers_of_a_cluster_may_hold_is_gone_on_with(path: Path) -> None:
    words = ("dougong", "run", "job.yaml")
    joined = RunCreated(generation=1, job="tiny", command=words, address="10.0.0.1:6379")
    begun = GenerationStarted(generation=1, workers=("east/0",))
    assert said(path, "lost", [joined, begun]).startswith("dougong resume R")
    assert said(path, "lost", [joined]).startswith("dougong run job.yaml"), "nobody has held anything"
    assert said(path, "lost", [created(*RUN), begun]).startswith("dougong run job.yaml"), "all of it was here"


@pytest.mark.parametrize("state", ["failed", "stopped", "lost"])
def test_a_finished_run_whose_resume_came_to_nothing_is_exported(path: Path, state: str) -> None:
    began, again = created(*RUN), created("dougong", "resume", "R", "--step", "5")
    events = [began, COMMITTED, RunEnded(kind="finished", generation=1, step=10), again, MISTAKE]
    assert said(path, state, events, "step-000005") == "dougong export R OUT"
    assert said(path, state, [*events, again, FirstStep(generation=3, step=6), CRASH]) == "dougong resume R"


def test_a_mistake_is_mended_first(path: Path) -> None:
    began = created(*RUN)
    assert said(path, "failed", [began, MISTAKE]) == (
        "mend what it names, then: dougong run job.yaml --no-ray --run-dir R"
    )
    # A mistake of an earlier life is mended.
    assert said(path, "stopped", [began, MISTAKE, began]) == "dougong run job.yaml --no-ray --run-dir R"
    later = said(path, "failed", [began, COMMITTED, created("dougong", "resume", "R"), MISTAKE], "step-000005")
    assert later == "mend what it names, then: dougong resume R --no-ray"


def test_a_step_that_is_not_finite_is_left_out(path: Path) -> None:
    """Without that, a resume would come to the same end."""
    bad = RunEnded(kind="failed", generation=1, step=7, cause="step 7: loss nan", worker="east/0", failure="numerics")
    assert said(path, "failed", [created(*RUN), bad]) == (
        "lower optimizer.lr or set optimizer.clip_norm, then: dougong run job.yaml --no-ray --run-dir R"
    )
    for option in (("-o", "optimizer.lr=1e30"), ("--override=optimizer.lr=1e30",)):
        begun = created(*RUN, *option, "-o", "steps=9")
        words = " ".join(option).replace("1e30", "LOWER")
        assert said(path, "failed", [begun, bad]).endswith(f"job.yaml --no-ray {words} -o steps=9 --run-dir R")
        assert "1e30" in said(path, "failed", [begun, CRASH]), "another failure does not come of it"
    events = [created(*RUN), COMMITTED, bad]
    assert said(path, "failed", events, "step-000005") == "dougong resume R --no-ray -o fault.non_finite=skip"
    skipped = StepSkipped(generation=2, step=6, loss=math.nan, grad_norm=math.nan, where="the loss", in_a_row=3)
    again = [*events, created("dougong", "resume", "R"), skipped, bad]
    assert said(path, "failed", again) == "dougong resume R --no-ray -o fault.max_skips=6"


def test_a_step_that_a_machine_has_computed_wrongly_is_computed_anew_by_the_same_job(path: Path) -> None:
    cause = "step 7: loss nan; computed once more, every value is finite"
    bad = RunEnded(kind="failed", generation=1, step=7, cause=cause, worker=None, failure="corruption")
    heat = "look at the machines' memory and heat, then: "
    begun = created(*RUN, "-o", "optimizer.lr=0.1")
    assert said(path, "failed", [begun, bad]) == (
        f"{heat}dougong run job.yaml --no-ray -o optimizer.lr=0.1 --run-dir R"
    )
    assert said(path, "failed", [begun, COMMITTED, bad], "step-000005") == f"{heat}dougong resume R --no-ray"


def test_checkpoints_that_were_all_rejected_are_looked_at(path: Path) -> None:
    assert said(path, "failed", [created(*RUN), COMMITTED, REJECTED, CRASH], "step-000005") == "dougong verify R"


def test_words_are_given_back_as_a_shell_takes_them() -> None:
    assert typed(("dougong", "run", "my job.yaml")) == "dougong run 'my job.yaml'"
    assert typed(("__main__.py", "run", "x")) == "python -m dougong run x"


@pytest.mark.parametrize(
    ("command", "again"),
    [
        ("__main__.py run j.yaml --no-ray", "python -m dougong resume R --no-ray"),
        ("dougong run j.yaml --address a:1 -o steps=9", "dougong resume R --address a:1"),
        ("dougong resume R --address=auto", "dougong resume R --address=auto"),
        # One that has said nothing of where, and trained nothing, is no example.
        ("dougong resume R", "dougong resume R --no-ray"),
    ],
)
def test_the_next_command_calls_the_program_and_reaches_its_machines_as_the_last_did(
    path: Path, command: str, again: str
) -> None:
    events = [created(*RUN), COMMITTED, created(*command.split())]
    assert said(path, "stopped", events, "step-000005") == again
    for state in ("finished", "running"):
        assert said(path, state, events).startswith(again.partition(" resume")[0])


@pytest.mark.parametrize("options", ["", " --address auto", " --address localhost:6379"])
def test_the_cluster_that_was_joined_is_named_so_that_it_is_found_from_another_shell(path: Path, options: str) -> None:
    began = created(*f"dougong start j.yaml --run-dir R{options}".split()).model_copy(
        update={"address": "10.0.0.1:6379"}
    )
    again = options or " --address 10.0.0.1:6379"
    assert said(path, "stopped", [began]) == f"dougong start j.yaml --run-dir R{again}"
    assert said(path, "stopped", [began, COMMITTED], "step-000005") == "dougong resume R --address 10.0.0.1:6379"


@pytest.mark.parametrize("failure", ["exception", "out_of_memory", "model", None])
def test_what_would_come_again_is_mended_first(path: Path, failure: str | None) -> None:
    """Without a class: nobody answers at an address, or there are too few devices."""
    ended = CRASH.model_copy(update={"failure": failure})
    assert said(path, "failed", [created(*RUN), ended]).startswith("mend what it names, then: dougong run job.yaml")


@pytest.mark.parametrize("failure", ["crash", "node_lost", "preemption", "storage"])
def test_what_came_from_outside_needs_no_remedy(path: Path, failure: str) -> None:
    ended = CRASH.model_copy(update={"failure": failure})
    assert said(path, "failed", [created(*RUN), ended]).startswith("dougong run job.yaml")
    stopped = CRASH.model_copy(update={"kind": "stopped", "failure": None})
    assert said(path, "stopped", [created(*RUN), stopped]).startswith("dougong run job.yaml")


def test_a_directory_that_is_gone_is_put_back_first(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    (path / "tensorboard").mkdir(parents=True)  # whoever still writes may make it anew
    assert said(path, "failed", []) == (
        "put the run directory back (where it is lost for good, begin anew), then: dougong status R"
    )
