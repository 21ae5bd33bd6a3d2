"""Experts of one worker: blocks, the order of their gradients, what is kept between forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dougong.ops.expert import SwiGLUExpert
from dougong.parallel.shard import ExpertShard, LaneRows

HIDDEN, INNER = 8, 16
OWNED = (2, 3, 4)


def tensors(expert: int, site: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 * site + expert)
    return {
        "gate_up_proj": torch.randn(2 * INNER, HIDDEN, generator=generator),
        "down_proj": torch.randn(HIDDEN, INNER, generator=generator),
    }


def make_shard() -> ExpertShard:
    return ExpertShard(SwiGLUExpert(), OWNED, [{e: tensors(e, site) for e in OWNED} for site in range(2)])


def lane_rows(lane: int, counts: tuple[int, ...], seed: int = 0) -> LaneRows:
    generator = torch.Generator().manual_seed(seed + 7 * lane)
    return LaneRows(lane, torch.randn(sum(counts), HIDDEN, generator=generator), counts)


BATCH = [lane_rows(0, (3, 0, 5)), lane_rows(1, (0, 0, 0)), lane_rows(2, (1, 9, 2)), lane_rows(3, (2, 4, 6))]
DOUT = [lane_rows(r.lane, tuple(r.counts), seed=50) for r in BATCH]


def test_every_block_is_computed_by_its_own_expert() -> None:
    answers = make_shard().forward((1, 0), BATCH)
    for lane, answer in zip(BATCH, answers, strict=True):
        rows = iter(zip(lane.rows.split(list(lane.counts)), answer.split(list(lane.counts)), strict=True))
        for expert, (block, out) in zip(OWNED, rows, strict=True):
            gate, up = (block @ tensors(expert, 1)["gate_up_proj"].t()).chunk(2, dim=-1)
            expected = (torch.nn.functional.silu(gate) * up) @ tensors(expert, 1)["down_proj"].t()
            torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_bits_of_a_lane_do_not_depend_on_the_lanes_beside_it() -> None:
    together, alone = make_shard(), make_shard()
    answers = together.forward((0, 0), BATCH)
    drows = together.backward((0, 0), DOUT)
    for rows, dout, answer, drow in zip(BATCH, DOUT, answers, drows, strict=True):
        assert torch.equal(alone.forward((0, 0), [rows])[0], answer)
        assert torch.equal(alone.backward((0, 0), [dout])[0], drow)
    for expert in OWNED:  # and the gradients are added lane by lane
        for name, gradient in together.gradients[0][expert].items():
            assert torch.equal(gradient, alone.gradients[0][expert][name]) and bool(gradient.any())


def test_the_order_of_lanes_is_part_of_the_bits() -> None:
    """Negative control: the shapes are unkind enough to show an addition in another order."""
    forwards, backwards = make_shard(), make_shard()
    for shard, order in ((forwards, 1), (backwards, -1)):
        shard.forward((0, 0), BATCH)
        shard.backward((0, 0), DOUT[::order])
    same = [torch.equal(g, backwards.gradients[0][4][n]) for n, g in forwards.gradients[0][4].items()]
    assert not all(same)


def test_gradients_of_micro_batches_and_sites_add_up_until_they_are_zeroed() -> None:
    shard = make_shard()
    for microbatch in range(2):
        shard.forward((0, microbatch), BATCH)
    for microbatch in (1, 0):  # the last forward's backward may come first
        shard.backward((0, microbatch), DOUT)
    once = make_shard()
    once.forward((0, 0), BATCH)
    once.backward((0, 0), DOUT)
    for expert in OWNED:
        for name, gradient in shard.gradients[0][expert].items():
            torch.testing.assert_close(gradient, 2 * once.gradients[0][expert][name], rtol=1e-5, atol=1e-5)
            assert not shard.gradients[1][expert][name].any(), "another site's"
    shard.zero_gradients()
    assert not any(g.any() for site in shard.gradients for of in site.values() for g in of.values())


def test_an_expert_without_rows_has_no_gradient() -> None:
    shard = make_shard()
    shard.forward((0, 0), BATCH[:1])
    shard.backward((0, 0), DOUT[:1])
    touched = {e: [bool(g.any()) for g in shard.gradients[0][e].values()] for e in OWNED}
    assert touched == {2: [True, True], 3: [False, False], 4: [True, True]}


def test_a_backward_needs_a_forward_that_kept_and_comes_once() -> None:
    shard = make_shard()
    kept = shard.forward((0, 0), BATCH)
    passing = shard.forward((0, 1), BATCH, keep=False)
    assert all(torch.equal(a, b) for a, b in zip(kept, passing, strict=True))
    assert shard._saved.keys() == {(0, 0)}
    with pytest.raises(KeyError):
        shard.backward((0, 1), DOUT)
    shard.backward((0, 0), DOUT)
    with pytest.raises(KeyError):
        shard.backward((0, 0), DOUT)


def test_gradients_are_float32_whatever_the_weights_are() -> None:
    half = {e: {n: t.bfloat16() for n, t in tensors(e, 0).items()} for e in OWNED}
    shard = ExpertShard(SwiGLUExpert(), OWNED, [half])
    batch, dout = ([LaneRows(r.lane, r.rows.bfloat16(), r.counts) for r in rows] for rows in (BATCH, DOUT))
    assert {a.dtype for a in shard.forward((0, 0), batch)} == {torch.bfloat16}
    shard.backward((0, 0), dout)
    assert {g.dtype for of in shard.gradients[0].values() for g in of.values()} == {torch.float32}


def test_rows_that_do_not_match_their_counts_are_our_mistake() -> None:
    wrong = LaneRows(0, torch.zeros(3, HIDDEN), (1, 0, 1))
    with pytest.raises(AssertionError, match="lane 0: counts add up to 2, rows are 3"):
        make_shard().forward((0, 0), [wrong])
