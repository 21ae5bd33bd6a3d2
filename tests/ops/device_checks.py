"""What products and row sums give on a simulated device whose library minds where a tensor begins, and how many rows
there are. Run in a process of the vendor's own.

SIMDEV_VENDOR=sima SIMDEV_MINDS_LAYOUT=1 python -m tests.ops.device_checks
"""

from __future__ import annotations

import torch
from dougong.models.sites import expert_op
from dougong.ops.alignment import aligned, is_aligned, product_into
from dougong.ops.experts.base import Block, ExpertOp
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert, TiledSwiGLU
from dougong.ops.permute import products_of_rows, sum_of_rows
from tests.ops.experts.test_reference import random_tensors, site_of
from tests.simdev import plugin
from tests.simdev.together import tell
from torch import Tensor

DEVICE = torch.device(plugin.VENDOR, 0)
HIDDEN = 24  # rows of 96 bytes: most begin at no multiple of 512


def values(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def the_device_minds() -> None:
    """Without what is checked here bits would follow the layout."""
    rows, weight = values(40, HIDDEN), values(HIDDEN, 8)
    moved = torch.cat([rows.new_zeros(1, HIDDEN), rows])[1:]
    assert not is_aligned(moved) and not torch.equal((moved @ weight).cpu(), (rows @ weight).cpu())
    assert not torch.equal(rows[:5].sum(-1).cpu(), rows.sum(-1)[:5].cpu())


def a_product_reads_and_writes_slices_alike() -> None:
    rows, weight = values(40, HIDDEN), values(HIDDEN, HIDDEN)
    due = (rows @ weight).cpu()
    for first in range(5):
        moved = torch.cat([rows.new_zeros(first, HIDDEN), rows])[first:]
        out = torch.empty(40 + first, HIDDEN, device=DEVICE)[first:]
        product_into(moved, weight, out)
        assert torch.equal(out.cpu(), due) and torch.equal((aligned(moved) @ weight).cpu(), due)


def outcome(op: ExpertOp, kind: str, before: int) -> list[Tensor]:
    """One expert's rows of two lanes with `before` rows of another expert in front of each: all that it computes."""
    tensors = {e: {n: t.to(DEVICE) for n, t in random_tensors(kind, e, torch.float32).items()} for e in range(2)}
    counts = [(0, before), (1, 5), (0, before), (1, 20)]
    blocks, start = [], 0
    for number, (expert, count) in enumerate(counts):
        if count:
            blocks.append(Block(expert, number // 2, start, count))
            start += count
    own = [block for block in blocks if block.expert == 1]
    hidden = 64
    x_RH, dy_RH, y_RH, dx_RH = (torch.zeros(start, hidden, device=DEVICE) for _ in range(4))
    for block in own:
        x_RH[block.span] = values(block.count, hidden, seed=block.lane)
        dy_RH[block.span] = values(block.count, hidden, seed=7 + block.lane)
    grads = {e: {n: torch.zeros_like(t) for n, t in of.items()} for e, of in tensors.items()}
    op.backward(dy_RH, op.forward(x_RH, blocks, tensors, y_RH), tensors, grads, dx_RH)()
    found = [rows[block.span].cpu() for rows in (y_RH, dx_RH) for block in own]
    return found + [grad.cpu() for grad in grads[1].values()]


def experts_do_not_see_which_other_experts_their_worker_has() -> None:
    for kind in ("qwen3_moe", "gpt_oss"):
        forms = [expert_op(site_of(kind), torch.device("cpu"))]
        if kind == "qwen3_moe":
            forms += [ByBlock(SwiGLUExpert()), TiledSwiGLU(16)]
        for op in forms:
            alone = outcome(op, kind, 0)
            for before in (1, 3):
                found = outcome(op, kind, before)
                assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True)), (kind, type(op), before)


def a_row_s_sum_does_not_see_how_many_rows_there_are() -> None:
    for width in (96, 8192, 10_000):
        left, right = values(40, width), values(40, width, seed=2)
        due = products_of_rows(left, right).cpu()
        for count in (1, 5, 15, 16, 17):
            assert torch.equal(products_of_rows(left[:count], right[:count]).cpu(), due[:count]), (width, count)
        torch.testing.assert_close(sum_of_rows(left, torch.float32).cpu(), left.cpu().sum(-1), rtol=1e-4, atol=1e-4)


CHECKS = (
    the_device_minds,
    a_product_reads_and_writes_slices_alike,
    experts_do_not_see_which_other_experts_their_worker_has,
    a_row_s_sum_does_not_see_how_many_rows_there_are,
)


if __name__ == "__main__":
    tell(CHECKS)
