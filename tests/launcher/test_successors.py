"""With Ray, a run whose controller dies goes on with the same Ray, the same agents and their fork servers, and with the
bits of an undisturbed run; whatever has died with the controller is begun anew."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from dougong.tools.drill.comparison import compare
from tests.families import config_values
from tests.launcher.test_supervised import controller_of
from tests.launcher.toyrun import ToyRun, toy_job, wait_for
from tests.training.running import token_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FLAGS = ("--beside", "--ray")
TWO = [{"name": "east", "accelerator": "cpu"}, {"name": "west", "accelerator": "cpu", "spares": 1}]


AGENT = ("kept.serve", "dougong agent")
KINDS = (*AGENT, "fork_server", "dougong fork-server", "gcs_server ", "raylet ", "process.serve")


def standing(run: ToyRun) -> dict[int, str]:
    """Its agents, their fork servers, its Ray and the process that speaks with it."""
    found, workers = run.processes(), set(run.worker_pids().values())  # who is forked has its parent's words
    return {pid: words for pid, words in found.items() if pid not in workers and any(kind in words for kind in KINDS)}


def agents(run: ToyRun) -> list[dict[str, int]]:
    """The process of each agent by its name, under each controller."""
    return [{agent["agent"]: agent["pid"] for agent in e["agents"]} for e in run.events("agents_started")]


def pid_of(run: ToyRun, kind: str) -> int:
    return next(pid for pid, words in run.processes().items() if kind in words)


def test_all_that_ray_holds_goes_over(tmp_path: Path) -> None:
    job = toy_job(islands=TWO, step_s=0.2, steps=40)
    run = ToyRun(tmp_path / "run", job, FLAGS).start()
    run.await_step(7)
    before = standing(run)
    assert sum(any(kind in words for kind in AGENT) for words in before.values()) == 3, "a spare, too"
    for fence in (1, 2):
        os.kill(controller_of(run, fence), signal.SIGKILL)
        wait_for(lambda n=fence: len(run.events("first_step")) > n, f"a step: {run.text()}")
        assert before.items() <= standing(run).items()
    assert run.finish(150) == 0, run.text()
    first, second, third = agents(run)
    assert sorted(first) == ["east", "west"] and first == second == third
    assert not run.events("ray"), "nothing of Ray was lost"


def stop_agent(run: ToyRun) -> None:
    os.kill(agents(run)[0]["east"], signal.SIGSTOP)


def kill_driver(run: ToyRun) -> None:
    os.kill(pid_of(run, "process.serve"), signal.SIGKILL)


def kill_head(run: ToyRun) -> None:
    os.kill(pid_of(run, "gcs_server "), signal.SIGKILL)


def stop_driver(run: ToyRun) -> None:
    os.kill(pid_of(run, "process.serve"), signal.SIGSTOP)


@pytest.mark.parametrize("strike", [stop_agent, kill_head, kill_driver, stop_driver])
def test_what_is_lost_with_the_controller_is_begun_anew(tmp_path: Path, strike: Callable[[ToyRun], None]) -> None:
    run = ToyRun(tmp_path / "run", toy_job(islands=TWO, step_s=0.1, steps=40), FLAGS).start()
    run.await_step(7)
    first = controller_of(run, 1)
    strike(run)
    os.kill(first, signal.SIGKILL)
    assert run.finish(150) == 0, run.text()
    before, after = agents(run)
    kept = {name for name in before if before[name] == after[name]}
    assert kept == ({"west"} if strike is stop_agent else set())
    (diagnosis,) = run.events("diagnosis")
    assert diagnosis["culprit"]["kind"] == "controller"


@pytest.mark.parametrize("also", ["the command alone", "its controller, too"])
def test_with_the_command_all_ends(tmp_path: Path, also: str) -> None:
    run = ToyRun(tmp_path / "run", toy_job(step_s=0.1, steps=2000), FLAGS).start()
    run.await_step(3)
    if also == "its controller, too":
        os.kill(controller_of(run, 1), signal.SIGKILL)
    run.process.kill()
    assert run.finish() == -signal.SIGKILL


def test_a_controller_that_is_stopped_for_long_is_followed_with_its_agents(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(step_s=0.3, steps=40), FLAGS).start()
    run.await_step(6)
    os.kill(controller_of(run, 1), signal.SIGSTOP)
    assert run.finish(150) == 0, run.text()
    before, after = agents(run)
    assert before == after


def test_the_weights_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    job = {
        "job": "successors",
        "model": {"family": "qwen3_moe", "config": config_values("qwen3_moe")},
        "data": {"tokens": str(token_file(tmp_path)), "sequence_length": 16},
        "batch": {"lanes": 2, "microbatches": 2, "microbatch_size": 1},
        "steps": 40,
        "islands": [{"name": "east", "accelerator": "cpu", "workers": 2}],
        "checkpoint": {"every": 5},
    }
    whole = ToyRun(tmp_path / "whole", job, ("--train",)).start()
    assert whole.finish(300) == 0, whole.text()
    run = ToyRun(tmp_path / "run", job, ("--train", *FLAGS)).start()
    run.await_step(7)
    before = standing(run)
    os.kill(controller_of(run, 1), signal.SIGKILL)
    wait_for(lambda: len(run.events("first_step")) > 1, f"a step: {run.text()}")
    assert before.items() <= standing(run).items()
    assert run.finish(300) == 0, run.text()
    assert str(compare(run.run_dir, whole.run_dir, 40)) == "the same bits"
