"""Forwards: each lane's own tokens, random numbers by place, and a model in the right mode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dougong.data.windows import open_data
from dougong.job.schema import Job
from dougong.training.forwards import Forwards
from tests.jobs import VOCAB, make_job
from tests.training.running import token_file
from torch import Tensor, nn

CPU = torch.device("cpu")


class Sum(nn.Module):
    """In place of a model: what it was given, and a random number."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, bool]] = []

    def forward(self, input_ids: Tensor, labels: Tensor, use_cache: bool) -> Sum:
        assert input_ids is labels and not use_cache
        self.asked.append((input_ids, self.training))
        self.loss = torch.rand(())
        return self


@pytest.fixture
def job(tmp_path: Path) -> Job:
    data = {"tokens": str(token_file(tmp_path)), "sequence_length": 16}
    data["validation"] = {"fraction": 0.2, "every": 1, "batches": 2}
    return make_job(data=data, batch={"lanes": 3, "microbatches": 2, "microbatch_size": 2})


def forwards_of(job: Job, lanes: tuple[int, ...]) -> tuple[Forwards, Sum]:
    model = Sum()
    return Forwards(job, open_data(job, VOCAB), model, lanes, CPU), model


def test_every_lane_reads_its_own_micro_batch(job: Job) -> None:
    forwards, model = forwards_of(job, (0, 2))
    by_lane = forwards.of_step(5)(1)
    assert list(by_lane) == [0, 2]
    data = open_data(job, VOCAB)
    for lane, forward in by_lane.items():
        forward.run()
        tokens, training = model.asked[-1]
        assert training and torch.equal(tokens, torch.from_numpy(data.batch(5, lane, 1)))


def test_random_numbers_are_those_of_the_place(job: Job) -> None:
    """Whatever ran before, and whoever has the lane."""
    alone, _ = forwards_of(job, (2,))
    among, _ = forwards_of(job, (0, 1, 2))

    def drawn(forwards: Forwards, step: int, segment: int) -> float:
        torch.rand(7)
        forward = forwards.of_step(step)(0)[2]
        forward.before_segment(segment)
        return float(forward.run())

    assert drawn(alone, 1, 0) == drawn(among, 1, 0)
    assert len({drawn(alone, step, segment) for step in (1, 2) for segment in (0, 1)}) == 4


def test_validation_is_always_the_same_rounds_in_evaluation_mode(job: Job) -> None:
    forwards, model = forwards_of(job, (1,))
    for _ in range(2):
        rounds = [list(round_of) for round_of in forwards.of_validation()]
        assert rounds == [[1], [1]] and model.training
    data = open_data(job, VOCAB)
    for number, round_of in enumerate(forwards.of_validation()):
        round_of[1].run()
        tokens, training = model.asked[-1]
        assert not training
        assert torch.equal(tokens, torch.from_numpy(data.validation_batch(number * 3 + 1)))
