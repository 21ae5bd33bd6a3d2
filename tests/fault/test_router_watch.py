"""A layer that sends everything to few experts is told once, and told again when that has ended."""

from __future__ import annotations

from dougong.control.worker_messages import StepDone
from dougong.fault.router_watch import STEPS, RouterNews, RouterWatch
from dougong.parallel.plan import Inventory
from tests.launcher.controller.machine import running, worker

QUICKSTART = Inventory("qwen3_moe", (), ("a", "b", "c"), 16, (), experts_per_token=4)


def news(watch: RouterWatch, steps: int, *shares: float, inventory: Inventory = QUICKSTART) -> list[RouterNews]:
    found: list[RouterNews] = []
    for _ in range(steps):
        found += watch.note({"load": {"busiest_share": list(shares)}}, inventory)
    return found


def test_a_collapsed_layer_is_told_once_and_again_when_it_has_spread() -> None:
    watch = RouterWatch()
    assert news(watch, STEPS - 1, 0.4, 0.98, 0.95) == []
    (told,) = news(watch, 20, 0.4, 0.98, 0.3)
    assert told.is_bad
    assert told.text.startswith("MoE layer 1: 4 of 16 experts took 98% of the tokens or more for 10 steps; ")
    assert "router.global_loss" in told.text
    assert news(watch, 30, 0.4, 0.8, 0.8) == []  # between the two limits it stays what it was
    (told,) = news(watch, 5, 0.4, 0.7, 0.4)
    assert told == RouterNews("MoE layer 1: the tokens go to more than a few experts again", is_bad=False)
    (again,) = news(watch, STEPS, 1.0, 1.0, 0.4)
    assert again.text.startswith("MoE layers 0, 1: 4 of 16 experts took all of the tokens for 10 steps; ")


def test_nearly_all_is_not_all() -> None:
    (told,) = news(RouterWatch(), STEPS, 0.999)
    assert "4 of 16 experts took 99% of the tokens or more for" in told.text


def test_what_is_no_collapse() -> None:
    assert news(RouterWatch(), 50, 0.89, 0.5, 0.25) == []
    narrow = Inventory("toy", (), ("a",), 4, (), experts_per_token=3)
    assert news(RouterWatch(), 50, 1.0, inventory=narrow) == []
    assert RouterWatch().note({"loss": 1.0}, QUICKSTART) == ()


def test_the_run_says_so_after_the_step_s_own_line() -> None:
    made = running()
    assert made.facts.model is not None
    row = {"loss": 1.0, "tokens": 64, "step_s": 0.01, "tokens_per_s": 6400.0, "load": {"busiest_share": [1.0]}}
    for number in range(1, STEPS + 3):
        made.play(worker("east/0", StepDone(number, {"step": number, **row})))
    warnings = [event for event in made.events if event.kind == "warning"]
    assert [event.text.partition(":")[0] for event in warnings] == ["MoE layer 0"]
