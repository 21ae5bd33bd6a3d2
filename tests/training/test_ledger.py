"""The ledger: the same digests on every layout and across a resume; every bit of every part of a step is in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from dougong.checkpoint.ledger_file import KINDS, Checksums, read_step
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.repository import expected_tensors
from dougong.job.schema import Job
from dougong.models.inventory import inspect_model
from dougong.parallel.comm.world import World
from dougong.training.ledger import BEGINNING, Ledger, chained, combine
from tests.jobs import make_job
from tests.training.running import Order, Outcome, run, token_file

STEPS = 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path, Outcome]:
    folder = tmp_path_factory.mktemp("whole")
    job = ledger_job(folder)
    return job, folder / "run", run(Order(job, "BB", folder / "run"))


def ledger_job(folder: Path, **changes: object) -> Job:
    data = {"tokens": str(token_file(folder)), "sequence_length": 16}
    batch = {"lanes": 3, "microbatches": 2, "microbatch_size": 1}
    return make_job(**{"data": data, "batch": batch, "steps": STEPS, "checkpoint": {"every": 2}, **changes})


def digests(outcome: Outcome) -> dict[int, str]:
    return {step: row["ledger"] for step, row in outcome.rows.items()}


def test_every_step_has_a_digest_and_the_checksums_of_every_tensor(whole: tuple[Job, Path, Outcome]) -> None:
    job, path, outcome = whole
    assert list(outcome.rows) == list(range(1, STEPS + 1))
    assert len(set(digests(outcome).values())) == STEPS
    names = {name for group, name, _ in expected_tensors(inspect_model(job.model, None)) if group == "model"}
    for step in outcome.rows:
        kept = read_step(path / "ledger", 1, step)
        assert kept.keys() == {(kind, name) for kind in KINDS for name in names}


@pytest.mark.parametrize("roles", ["B", "AEE"])
def test_it_is_the_same_on_every_layout(whole: tuple[Job, Path, Outcome], roles: str, tmp_path: Path) -> None:
    job, path, outcome = whole
    other = run(Order(job, roles, tmp_path))
    assert [row["checksums"] for row in other.rows.values()] == [row["checksums"] for row in outcome.rows.values()]
    assert digests(other) == digests(outcome)
    assert kept_of(tmp_path) == kept_of(path)


def kept_of(run_dir: Path) -> list[Checksums]:
    return [read_step(run_dir / "ledger", 1, step) for step in range(1, STEPS + 1)]


def test_it_goes_on_after_a_resume(whole: tuple[Job, Path, Outcome], tmp_path: Path) -> None:
    job, _, outcome = whole
    assert Manifest.load(outcome.committed[2]).metadata["ledger"] == outcome.rows[2]["ledger"]
    resumed = run(Order(job, "AE", tmp_path, outcome.committed[2], generation=2))
    assert digests(resumed) == {s: d for s, d in digests(outcome).items() if s > 2}
    assert Manifest.load(resumed.committed[4]).metadata["ledger"] == outcome.rows[4]["ledger"]


def test_another_seed_has_another_ledger_and_off_has_none(tmp_path: Path) -> None:
    base = {"steps": 1, "checkpoint": {"every": 0}}
    one, two = (run(Order(ledger_job(tmp_path, seed=s, **base), "B", tmp_path / str(s))) for s in (1, 2))
    assert one.rows[1]["ledger"] != two.rows[1]["ledger"]
    off = run(Order(ledger_job(tmp_path, determinism="off", **base), "B", tmp_path / "off"))
    assert "ledger" not in off.rows[1] and not (tmp_path / "off/ledger").exists()


NAMES = ("a", "b", "c")


def close(gradients: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], loss: float = 2.0) -> dict[str, str]:
    ledger = Ledger(World.alone(), NAMES, None, None)
    ledger.note("gradient", gradients)
    ledger.note("weight", weights)
    row: dict[str, str] = ledger.close(1, loss)
    return row


def test_each_part_of_a_step_is_in_its_digest() -> None:
    gradients = {"a": torch.ones(3), "b": torch.zeros(2)}
    weights = {n: torch.full((2,), float(i)) for i, n in enumerate(NAMES)}
    whole = close(gradients, weights)
    loss = close(gradients, weights, loss=float(np.nextafter(2.0, 3.0)))
    swapped = close(gradients, {**weights, "b": weights["c"], "c": weights["b"]})
    absent = close({"a": gradients["a"]}, weights)
    other = close({**gradients, "b": torch.tensor([0.0, -0.0])}, weights)
    exchanged = close({"a": weights["a"]}, {**weights, "a": gradients["a"]})
    rows = [whole, loss, swapped, absent, other, exchanged]
    assert len({row["ledger"] for row in rows}) == len(rows)
    assert loss["checksums"] == whole["checksums"]
    assert close(dict(reversed(gradients.items())), weights) == whole


def test_the_chain() -> None:
    first = chained(BEGINNING, 1, 2.0, (3, 4))
    assert (
        len({first, *(chained(BEGINNING, *facts) for facts in ((2, 2.0, (3, 4)), (1, 2.5, (3, 4)), (1, 2.0, (4, 3))))})
        == 4
    )
    assert chained(first, 2, 2.0, (3, 4)) != chained(BEGINNING, 2, 2.0, (3, 4))


def test_totals_of_parts_add_up_to_the_total_of_all() -> None:
    keys, values = np.random.default_rng(0).integers(0, 2**64, (2, 9), np.uint64)
    parts = [combine(keys[i : i + 3], values[i : i + 3]) for i in (0, 3, 6)]
    assert sum(parts) % 2**64 == combine(keys, values)


def test_a_gradient_of_an_earlier_step_is_forgotten() -> None:
    ledger = Ledger(World.alone(), NAMES, None, None)
    rows = []
    for gradients in ({"a": torch.ones(3)}, {"a": torch.ones(3), "b": torch.ones(2)}, {"a": torch.ones(3)}):
        ledger.note("gradient", gradients)
        ledger.note("weight", {})
        rows.append(ledger.close(1, 2.0)["checksums"])
    assert rows[0] == rows[2] != rows[1]
