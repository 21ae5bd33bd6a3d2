"""Commands that are suggested reach a run's machines as the run does."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.records.directory import RunDir
from dougong.records.events import Event, FirstStep, RunCreated
from dougong.records.finished import launch_words, resume_command

TRAINED = FirstStep(generation=1, step=1, seconds=1.0)


def created(command: str, address: str = "") -> RunCreated:
    return RunCreated(generation=1, job="tiny", command=tuple(command.split()), address=address)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], ()),
        ([created("dougong run j.yaml")], ()),
        ([created("dougong run j.yaml --no-ray -o steps=9")], ("--no-ray",)),
        ([created("dougong run j.yaml --allow-open-cluster --wait 60")], ("--allow-open-cluster", "--wait 60")),
        # One that came to nothing and said nothing of where is no example.
        ([created("dougong run j.yaml --no-ray"), TRAINED, created("dougong resume R")], ("--no-ray",)),
        ([created("dougong run j.yaml --no-ray"), created("dougong resume R"), TRAINED], ()),
        ([created("dougong run j.yaml"), TRAINED, created("dougong resume R --no-ray")], ("--no-ray",)),
        (
            [created("dougong run j.yaml --address auto --allow-open-cluster", "10.0.0.1:6379")],
            ("--address 10.0.0.1:6379", "--allow-open-cluster"),
        ),
        (
            [
                created("dougong run j.yaml --address a:1", "a:1"),
                TRAINED,
                created("dougong resume R --address b:1", "b:1"),
            ],
            ("--address b:1",),
        ),
    ],
)
def test_options_of_the_run(events: list[Event], expected: tuple[str, ...]) -> None:
    assert launch_words(events) == expected


def test_what_is_typed_now_says_where_before_the_record_does() -> None:
    begun = [created("dougong run j.yaml", "a:1"), TRAINED]
    assert launch_words(begun, ("resume", "R", "--no-ray", "-o", "steps=3")) == ("--no-ray",)
    assert launch_words(begun, ("resume", "R", "-o", "steps=3")) == ("--address a:1",)


def test_a_command_for_a_run_also_where_its_record_is_damaged(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "my run")
    run.append_event(created("dougong run j.yaml --no-ray"))
    assert resume_command(run.path) == f"dougong resume '{run.path}' --no-ray"
    assert resume_command(run.path, is_readable=False) == f"dougong resume '{run.path}'"
    run.events_file.write_text("no event\n" * 3)
    assert resume_command(run.path) == f"dougong resume '{run.path}'"
