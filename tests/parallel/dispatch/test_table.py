"""The count table: what one side makes, the other reads, for any lanes, workers and experts."""

from __future__ import annotations

from typing import Any

import torch
from dougong.parallel.comm.message import LABEL, labels_of, write_label
from dougong.parallel.dispatch.crossing import ExpertHolders, plan_crossings
from dougong.parallel.dispatch.table import IncomingTable, OutgoingTable, share_bytes, share_length
from hypothesis import given, settings
from hypothesis import strategies as st

CPU = torch.device("cpu")


@st.composite
def layouts(draw: Any) -> tuple[list[int], list[int], list[list[bool]]]:
    """Lanes of each attention worker, experts of each experts worker, and which lanes have a micro-batch."""
    lanes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    experts = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(any))
    return lanes, experts, [[draw(st.booleans()) for _ in range(number)] for number in lanes]


@given(layouts())
@settings(max_examples=60, deadline=None)
def test_all_experts_workers_read_what_all_attention_workers_send(layout: Any) -> None:
    lanes, experts, present = layout
    holders = ExpertHolders.of(experts, CPU)
    shares: list[list[torch.Tensor]] = []
    plans = []
    for sender, number in enumerate(lanes):
        outgoing = OutgoingTable(number, experts)
        of_sender = []
        for lane in range(number):
            index = torch.randint(sum(experts), (2 + lane, 2), generator=torch.Generator().manual_seed(sender))
            (plan,) = plan_crossings([index], holders)
            of_sender.append(plan if present[sender][lane] else None)
        plans += of_sender
        table = outgoing.make(of_sender, torch.bfloat16)
        write_label(table, outgoing.sizes, [sender, 7, 1, 0])
        assert len(table) == sum(outgoing.sizes)
        shares.append(list(table.split(outgoing.sizes)))
    for worker, number in enumerate(experts):
        incoming = IncomingTable(lanes, number)
        table = torch.cat([of_sender[worker] for of_sender in shares])
        assert table.nbytes == sum(share_bytes(of, number) for of in lanes)
        assert labels_of(table, incoming.sizes).tolist() == [[sender, 7, 1, 0] for sender in range(len(lanes))]
        read, first = incoming.read(table), sum(experts[:worker])
        tokens = [plan.tokens_D[worker] if plan else 0 for plan in plans]
        rows = [plan.routing.counts_E[first : first + number].tolist() if plan else [0] * number for plan in plans]
        assert read.counts.tokens_L.tolist() == tokens and read.counts.counts_LE.tolist() == rows
        assert sum(read.tokens_S) == sum(tokens) and sum(read.rows_S) == sum(map(sum, rows))
        assert len(read.tokens_S) == len(read.rows_S) == len(lanes)
        has_any = any(any(of) for of in present)
        assert read.counts.num_choices == (2 if has_any else 1)
        assert read.weights_dtype == (torch.bfloat16 if has_any else torch.float32)


def test_how_long_a_share_is() -> None:
    assert share_length(0, 5) == len(LABEL) + 2
    assert share_length(2, 3) == len(LABEL) + 2 + 2 * (1 + 3)
