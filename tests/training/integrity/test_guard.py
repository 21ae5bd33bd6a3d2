"""Numbers that have a copy are compared with it before a step is committed: whoever they belong to is named, and no
healthy worker is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dougong.control.worker_api import WorkerContext
from dougong.errors import CorruptionError
from dougong.parallel.comm.route import Pending
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.world import World
from dougong.training import session
from dougong.training.drill.spoiler import flip_bit
from dougong.training.integrity.guard import Guard
from tests.training.drill.test_spoiler import victim_of
from tests.training.running import Order, Outcome, run
from tests.training.session_drill import train_with
from tests.training.test_trainer import job_of, trainer_of


def spoilt(folder: Path, roles: str, worker: str, fault: str) -> Outcome:
    """Three steps, in the second of which this happens to that worker."""
    job = job_of(folder, steps=3, checkpoint={"every": 0})
    return run(Order(job, roles, folder, train=train_with(worker, fault, 2)))


@pytest.mark.parametrize(("fault", "says"), [
    ("flip_weight", "the weight .* changed in memory, computed by nobody"),
    ("flip_moment", "the exp_avg of .* changed in memory, computed by nobody"),
    ("flip_message", "rows of site 0 .*: what arrived is not what was sent"),
])  # fmt: skip
def test_a_worker_alone_finds_its_own(fault: str, says: str, tmp_path: Path) -> None:
    trainer, _, _ = trainer_of(job_of(tmp_path), tmp_path)
    trainer.run_step(1)
    victim_of(trainer).spoil(fault)
    before = {name: tensor.clone() for name, tensor in trainer.stepper.parts.share.replica.masters.items()}
    with pytest.raises(CorruptionError, match=f"step 2: {says}"):
        trainer.run_step(2)
    now = trainer.stepper.parts.share.replica.masters
    assert all((now[name] == tensor).all() for name, tensor in before.items()), "no update was made"


def test_a_flip_that_nobody_compares_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without the comparison the same flips end no step, and other weights are trained."""
    trainers = [trainer_of(job_of(tmp_path), tmp_path / name)[0] for name in "ab"]
    monkeypatch.setattr(Guard, "judge", lambda guard, step, words: None)
    for trainer in trainers:
        trainer.run_step(1)
    victim_of(trainers[0]).spoil("flip_weight")
    for trainer in trainers:
        trainer.run_step(2)
    spoilt, honest = (trainer.stepper.parts.share.replica.masters for trainer in trainers)
    assert any((spoilt[name] != tensor).any() for name, tensor in honest.items())


@pytest.mark.parametrize(("roles", "worker", "fault", "accused"), [
    ("BB", "east/1", "flip_weight", "(east/1)"),
    ("AEB", "east/1", "flip_moment", "(east/1)"),
    ("BB", "east/1", "flip_message", "(east/1 and east/0)"),
])  # fmt: skip
def test_the_culprit_is_named_and_nothing_is_committed(
    roles: str, worker: str, fault: str, accused: str, tmp_path: Path
) -> None:
    outcome = spoilt(tmp_path, roles, worker, fault)
    assert list(outcome.rows) == [1]
    kinds = {name: kind for name, (kind, _) in outcome.errors.items()}
    assert sorted(kinds.values()) == ["CorruptionError"] + ["PeerError"] * (len(roles) - 1)
    (text,) = [text for kind, text in outcome.errors.values() if kind == "CorruptionError"]
    assert text.startswith("step 2: ") and accused in text


@dataclass(frozen=True)
class FlipOnItsWay:
    """An entry: of the new weights of a step the first that come to a worker are other numbers than were sent."""

    worker: str
    step: int

    def __call__(self, context: WorkerContext) -> None:
        if context.worker.name == self.worker:
            self._prepare()
        session.train(context)

    def _prepare(self) -> None:
        honest, gone = World.transfer, []

        def transfer(world: World, kind: TrafficKind, sends: Any, receives: Any, what: str) -> Pending:
            pending = honest(world, kind, sends, receives, what)
            if kind is TrafficKind.WEIGHTS and world.step == self.step and receives and not gone:
                gone.append(what)
                pending.wait()
                flip_bit(receives[0].tensor)
            return pending

        World.transfer = transfer  # type: ignore[method-assign]  # this process ends with the run


def test_a_weight_that_was_handed_on_is_between_the_two_where_it_changed(tmp_path: Path) -> None:
    """Worker 1's new weight changes on its way to 3, which hands it on to 2: that one is not named."""
    job = job_of(
        tmp_path, steps=4, checkpoint={"every": 0}, batch={"lanes": 4, "microbatches": 2, "microbatch_size": 1}
    )
    outcome = run(Order(job, "BBBB", tmp_path, train=FlipOnItsWay("east/3", 2)))
    assert list(outcome.rows) == [1, 2]
    assert {name: kind for name, (kind, _) in outcome.errors.items() if kind != "PeerError"} == {
        "east/3": "CorruptionError"
    }
    assert len(outcome.errors) == 4
    text = outcome.errors["east/3"][1]
    assert text.startswith("step 3: the weight ") and "(east/1 and east/3)" in text
