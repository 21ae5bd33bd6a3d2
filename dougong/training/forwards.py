"""What the model is asked to do with the data: next-token prediction on a lane's micro-batch.

A forward's random numbers are those of the job's seed and its own place (step, lane, micro-batch,
segment), so no layout and no order of execution changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dougong.data.windows import TokenWindows
from dougong.job.schema import Job
from dougong.ops.counter_rng import torch_seed
from dougong.parallel.segments.flight import Forward


class Forwards:
    """The forwards of one worker's lanes, for training and for validation. `data`: what all lanes
    read."""

    def __init__(
        self,
        job: Job,
        data: TokenWindows,
        model: nn.Module,
        lanes: Sequence[int],
        device: torch.device,
    ) -> None:
        self._job = job
        self.data = data
        self._model = model
        self._lanes = lanes
        self._device = device

    def of_step(
        self, step: int, lanes: Sequence[int] | None = None
    ) -> Callable[[int], Mapping[int, Forward]]:
        """forwards(micro-batch) by lane, of a training step. `lanes`: others than this worker's."""
        of_lanes = self._lanes if lanes is None else lanes

        def forwards(microbatch: int) -> Mapping[int, Forward]:
            found = {}
            for lane in of_lanes:
                ids = self.data.batch(step, lane, microbatch)
                found[lane] = self._forward(ids, ("train", step, lane, microbatch))
            return found

        return forwards

    def of_validation(self, num_rounds: int) -> Iterator[Mapping[int, Forward]]:
        """Rounds of forwards by lane over the validation data, always the same ones. The model is
        in evaluation mode while they last."""
        self._model.eval()
        for number in range(num_rounds):
            forwards = {}
            for lane in self._lanes:
                ids = self.data.validation_batch(number * self._job.batch.lanes + lane)
                forwards[lane] = self._forward(ids, ("validate", number, lane))
            yield forwards
        self._model.train()

    def _forward(self, ids: Any, place: tuple[str | int, ...]) -> Forward:
        """`ids`: numpy, whole numbers [sequences, tokens]; `place` names the random numbers."""
        tokens = torch.from_numpy(ids).to(self._device)

        def run() -> Tensor:
            loss: Tensor = self._model(input_ids=tokens, labels=tokens, use_cache=False).loss
            return loss

        def seed(segment: int) -> None:
            torch.manual_seed(torch_seed(self._job.seed, *place, segment))

        return Forward(run, seed)
