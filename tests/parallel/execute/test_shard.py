"""Experts of one worker: the order of their gradients, what is kept between forward and backward."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from dougong.models.memory.live_bytes import LiveBytes
from dougong.ops.experts.base import Block, ExpertOp
from dougong.ops.experts.reference import ByBlock, ByTile, SwiGLUExpert, TiledSwiGLU
from dougong.parallel.execute.shard import ExpertShard, Keep
from tests.parallel.workers import blocks_of
from torch import Tensor

HIDDEN, INNER = 8, 16
OWNED = (2, 3, 4)
COUNTS = {0: (3, 0, 5), 2: (1, 9, 2), 3: (2, 4, 6)}
FORMS: list[ExpertOp] = [ByBlock(SwiGLUExpert()), ByTile(SwiGLUExpert(), 8), TiledSwiGLU(8)]


def tensors(expert: int, site: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 * site + expert)
    return {
        "gate_up_proj": torch.randn(2 * INNER, HIDDEN, generator=generator),
        "down_proj": torch.randn(HIDDEN, INNER, generator=generator),
    }


def make_shard(op: ExpertOp = FORMS[0]) -> ExpertShard:
    return ExpertShard(op, [{e: tensors(e, site) for e in OWNED} for site in range(2)])


def wave(lanes: Sequence[int] = (0, 2, 3)) -> list[Block]:
    return blocks_of(OWNED, {lane: COUNTS[lane] for lane in lanes})


def rows(seed: int, lanes: Sequence[int] = (0, 2, 3)) -> Tensor:
    of_lane = [torch.Generator().manual_seed(seed + 7 * lane) for lane in lanes]
    return torch.cat([torch.randn(sum(COUNTS[n]), HIDDEN, generator=g) for n, g in zip(lanes, of_lane, strict=True)])


def back(shard: ExpertShard, key: tuple[int, int], danswers: Tensor) -> Tensor:
    """The whole backward."""
    drows, _ = shard.backward(key, danswers)
    shard.add_weights(key)
    return drows


def test_every_block_is_computed_by_its_own_expert() -> None:
    answers = make_shard().forward((1, 0), rows(0), wave())
    for block in wave():
        gate, up = (rows(0)[block.span] @ tensors(block.expert, 1)["gate_up_proj"].t()).chunk(2, dim=-1)
        expected = (torch.nn.functional.silu(gate) * up) @ tensors(block.expert, 1)["down_proj"].t()
        torch.testing.assert_close(answers[block.span], expected, rtol=1e-5, atol=1e-5)


def test_bits_of_a_lane_do_not_depend_on_the_lanes_beside_it() -> None:
    together, alone = make_shard(), make_shard()
    answers = together.forward((0, 0), rows(0), wave())
    drows = back(together, (0, 0), rows(50))
    parts = []
    for lane in COUNTS:
        parts.append((alone.forward((0, 0), rows(0, [lane]), wave([lane])), back(alone, (0, 0), rows(50, [lane]))))
    assert torch.equal(torch.cat([y for y, _ in parts]), answers)
    assert torch.equal(torch.cat([d for _, d in parts]), drows)
    for expert in OWNED:  # and the gradients are added lane by lane
        for name, gradient in together.gradients[0][expert].items():
            assert torch.equal(gradient, alone.gradients[0][expert][name]) and bool(gradient.any())


def test_the_order_of_lanes_is_part_of_the_bits() -> None:
    """Negative control: the shapes are unkind enough to show an addition in another order."""
    results = []
    for order in ([0, 2, 3], [3, 2, 0]):
        shard = make_shard()
        for lane in order:
            shard.forward((0, 0), rows(0, [lane]), wave([lane]))
            back(shard, (0, 0), rows(50, [lane]))
        results.append(shard.gradients[0][4])
    assert not all(torch.equal(g, results[1][n]) for n, g in results[0].items())


@pytest.mark.parametrize("op", FORMS)
def test_gradients_of_micro_batches_and_sites_add_up_until_they_are_zeroed(op: ExpertOp) -> None:
    shard = make_shard(op)
    for microbatch in range(2):
        shard.forward((0, microbatch), rows(0), wave())
    for microbatch in (1, 0):  # the last forward's backward may come first
        back(shard, (0, microbatch), rows(50))
    once = make_shard(op)
    once.forward((0, 0), rows(0), wave())
    back(once, (0, 0), rows(50))
    for expert in OWNED:
        for name, gradient in shard.gradients[0][expert].items():
            torch.testing.assert_close(gradient, 2 * once.gradients[0][expert][name], rtol=1e-5, atol=1e-5)
            assert not shard.gradients[1][expert][name].any(), "another site's"
    shard.zero_gradients()
    assert not any(g.any() for site in shard.gradients for of in site.values() for g in of.values())


@pytest.mark.parametrize("op", FORMS)
def test_an_expert_without_rows_has_no_gradient(op: ExpertOp) -> None:
    shard = make_shard(op)
    shard.forward((0, 0), rows(0, [0]), wave([0]))
    back(shard, (0, 0), rows(50, [0]))
    touched = {e: [bool(g.any()) for g in shard.gradients[0][e].values()] for e in OWNED}
    assert touched == {2: [True, True], 3: [False, False], 4: [True, True]}


@pytest.mark.parametrize("op", FORMS)
def test_a_wave_without_rows_is_served(op: ExpertOp) -> None:
    shard = make_shard(op)
    assert shard.forward((0, 0), torch.empty(0, HIDDEN), []).shape == (0, HIDDEN)
    assert back(shard, (0, 0), torch.empty(0, HIDDEN)).shape == (0, HIDDEN)


@pytest.mark.parametrize("op", FORMS)
def test_a_backward_needs_a_forward_that_kept_and_comes_once(op: ExpertOp) -> None:
    shard = make_shard(op)
    kept = shard.forward((0, 0), rows(0), wave())
    assert torch.equal(kept, shard.forward((0, 1), rows(0), wave(), Keep.NOTHING))
    with pytest.raises(KeyError):
        back(shard, (0, 1), rows(50))
    back(shard, (0, 0), rows(50))
    with pytest.raises(KeyError):
        back(shard, (0, 0), rows(50))


@pytest.mark.parametrize("op", FORMS)
def test_weights_wait_until_they_are_asked_for(op: ExpertOp) -> None:
    """What runs between changes nothing; asking twice is refused."""
    shard, at_once = make_shard(op), make_shard(op)
    for microbatch in range(2):
        shard.forward((0, microbatch), rows(microbatch), wave())
        at_once.forward((0, microbatch), rows(microbatch), wave())
    early = [shard.backward((0, microbatch), rows(50 + microbatch)) for microbatch in range(2)]
    assert not any(g.any() for of in shard.gradients[0].values() for g in of.values())
    for microbatch in range(2):
        shard.add_weights((0, microbatch))
        assert torch.equal(early[microbatch][0], back(at_once, (0, microbatch), rows(50 + microbatch)))
    for expert in OWNED:
        assert all(torch.equal(g, at_once.gradients[0][expert][n]) for n, g in shard.gradients[0][expert].items())
    with pytest.raises(KeyError):
        shard.add_weights((0, 1))


@pytest.mark.parametrize("op", FORMS)
def test_gradients_are_float32_whatever_the_weights_are(op: ExpertOp) -> None:
    half = {e: {n: t.bfloat16() for n, t in tensors(e, 0).items()} for e in OWNED}
    shard = ExpertShard(op, [half])
    assert shard.forward((0, 0), rows(0).bfloat16(), wave()).dtype == torch.bfloat16
    assert back(shard, (0, 0), rows(50).bfloat16()).dtype == torch.bfloat16
    assert {g.dtype for of in shard.gradients[0].values() for g in of.values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", FORMS)
def test_whatever_is_kept_the_outputs_come_again_and_all_bits_are_the_same(op: ExpertOp, dtype: torch.dtype) -> None:
    found = {}
    for keep in (Keep.OUTPUTS, Keep.ACTIVATIONS, Keep.ROWS):
        shard = ExpertShard(op, [{e: {n: t.to(dtype) for n, t in tensors(e, 0).items()} for e in OWNED}])
        forward = shard.forward((0, 0), rows(0).to(dtype), wave(), keep)
        drows, outputs = shard.backward((0, 0), rows(50).to(dtype))
        shard.add_weights((0, 0))
        assert torch.equal(outputs, forward) and (outputs is forward) == (keep is Keep.OUTPUTS)
        weights = [g for of in shard.gradients[0].values() for g in of.values()]
        found[keep] = [forward, drows, *weights]
    first, *others = found.values()
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_rows_alone_are_kept_where_the_forward_runs_again() -> None:
    """By what lies in memory between forward and backward: no activation."""
    sizes = {}
    for keep in Keep:
        alive = LiveBytes()
        shard, x = make_shard(), rows(0)
        with alive:
            shard.forward((0, 0), x, wave(), keep)
        sizes[keep] = alive.now // (4 * len(x))
    assert sizes == {
        Keep.NOTHING: 0,
        Keep.ROWS: 0,
        Keep.ACTIVATIONS: 3 * INNER,
        Keep.OUTPUTS: 3 * INNER + HIDDEN,
    }, sizes
