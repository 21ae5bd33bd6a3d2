"""What the model is asked to do with the data: next-token prediction on a lane's
micro-batch, of all tokens or of those that are learnt.

A forward's random numbers are those of the job's seed and its own place (step, lane, micro-batch,
segment), so no layout and no order of execution changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dougong.data.source_windows import TokenBatch
from dougong.data.windows import TokenWindows
from dougong.job.schema import Job
from dougong.ops.counter_rng import torch_seed
from dougong.parallel.segments.flight import Forward, RealTokens


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
                batch = self.data.microbatch(step, lane, microbatch)
                found[lane] = self._forward(batch, ("train", step, lane, microbatch))
            return found

        return forwards

    def of_validation(self) -> Iterator[Mapping[int, Forward]]:
        """Rounds of forwards by lane over the validation data, always the same ones. The model is
        in evaluation mode while they last."""
        self._model.eval()
        for number in range(self.data.num_validation_rounds):
            forwards = {}
            for lane in self._lanes:
                index = number * self._job.batch.lanes + lane
                batch = self.data.validation_microbatch(index)
                forwards[lane] = self._forward(batch, ("validate", number, lane))
            yield forwards
        self._model.train()

    def _forward(self, batch: TokenBatch, place: tuple[str | int, ...]) -> Forward:
        """`place` names the random numbers."""
        tokens = self._on_device(batch.ids)
        asked: dict[str, Any] = {"labels": tokens}
        if batch.labels is not None:
            # transformers then divides the sum of the tokens' losses by this number.
            asked = {"labels": self._on_device(batch.labels)}
            asked["num_items_in_batch"] = batch.num_targets
        if batch.positions is not None:
            # A position that does not follow the last one begins another document, at whose tokens
            # those behind it do not look (`masking_utils.find_packed_sequence_indices`).
            asked["position_ids"] = self._on_device(batch.positions)
        if batch.images is not None:
            # The family itself counts the positions of its images, by what each token stands for.
            asked["pixel_values"] = self._on_device(batch.images.pixels)
            asked["image_grid_thw"] = self._on_device(batch.images.grids)
            asked["mm_token_type_ids"] = self._on_device(batch.images.kinds)

        def run() -> Tensor:
            loss: Tensor = self._model(input_ids=tokens, use_cache=False, **asked).loss
            return loss

        def seed(segment: int) -> None:
            torch.manual_seed(torch_seed(self._job.seed, *place, segment))

        return Forward(run, seed, self._real(batch.padding))

    def _real(self, padding: npt.NDArray[np.bool_] | None) -> RealTokens | None:
        if padding is None:
            return None
        mask = torch.from_numpy(~padding.reshape(-1))
        return RealTokens(mask.to(self._device), int(mask.sum()))

    def _on_device(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self._device)
