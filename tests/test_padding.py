"""Padding of chats moves no router: it is counted nowhere, with the same bits on any layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.data.windows import open_data
from dougong.job.parts.router import Router
from dougong.training.build import StepOptions
from dougong.training.hooks import StepHook
from tests.jobs import make_rig
from tests.test_fine_tuning import VOCAB, chat_job, forwards_of, run_layout


class Padded(StepHook):
    """Counts as a plain loop: the slots of every token that is not padding, from the choices themselves."""

    def __init__(self) -> None:
        self.counts = torch.zeros(2, 9, dtype=torch.int64)
        self.real_tokens = 0

    def after_forward(self, microbatch: int, flights: Any, routings: Any) -> None:
        for lane, flight in flights.items():
            real = [True] * routings[0][lane].num_tokens if flight.real is None else flight.real.mask_T.tolist()
            self.real_tokens += sum(real)
            for site, of_site in enumerate(routings):
                routing = of_site[lane]
                experts = torch.repeat_interleave(torch.arange(len(routing.counts_E)), routing.counts_E)
                for slot, expert in zip(routing.order_R.tolist(), experts.tolist(), strict=True):
                    self.counts[site, expert] += real[slot // routing.num_choices]


def test_padding_is_counted_nowhere(tmp_path: Path) -> None:
    job = chat_job(tmp_path, "deepseek_v3")
    plain = Padded()
    rig = make_rig(job, options=StepOptions(hooks=[plain]))
    rig.stepper.run(1, forwards_of(job, rig.replica.model, range(3)).of_step(1))
    load, data = rig.load, open_data(job, VOCAB)
    padding = [data.microbatch(1, lane, m).padding for lane in range(3) for m in range(2)]
    num_padding = sum(int(one.sum()) for one in padding if one is not None)
    assert load.num_tokens == plain.real_tokens == 3 * 2 * 2 * 128 - num_padding and num_padding > 0
    assert load.counts.tolist() == plain.counts.tolist()
    assert load.counts.sum(1).tolist() == [2 * load.num_tokens] * 2


@pytest.mark.parametrize("router", [{"bias_rate": 0.01, "global_loss": 0.1}, {"sequence_loss": 0.1}])
def test_padded_chats_are_balanced_with_the_same_bits_on_any_layout(router: dict[str, float], tmp_path: Path) -> None:
    job = chat_job(tmp_path, "deepseek_v3").model_copy(update={"router": Router(**router)})
    alone = run_layout(job, "B")
    for layout in ("BBB", "AEE"):
        assert run_layout(job, layout) == alone
    assert run_layout(job.model_copy(update={"router": Router()}), "B")[1] != alone[1]
