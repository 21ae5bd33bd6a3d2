"""What the bits of our operators do not depend on: where rows lie, who computes beside them, threads, owners.

Next to each promise stands a negative control: the operation that would break it does so here, at these very shapes. A
green test without one proves little (`docs/design/determinism.md`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from dougong.job.optimizers.adamw import AdamW
from dougong.models.sites import expert_op
from dougong.ops.experts.base import Block, ExpertOp, Rows
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert, TiledSwiGLU
from dougong.ops.permute import make_routing, permute, permute_backward, unpermute
from dougong.ops.topk import topk_by_index
from dougong.parallel.tree import LaneTree
from dougong.training.optimizers.adamw import OwnedAdamW
from tests.ops.experts.test_reference import CPU, HIDDEN, random_tensors, site_of
from tests.reference import combine_backward
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
Tensors = dict[str, Tensor]
DTYPES = [torch.float32, torch.bfloat16]


def values(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def differing(ours: Tensors, theirs: Tensors) -> list[str]:
    assert ours.keys() == theirs.keys()
    return [n for n, t in theirs.items() if not torch.equal(ours[n], t)]


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


# ---------------------------------------------------------------------------------------------------------------------
# Where received rows lie (T12)


def moved(rows_RH: Tensor, offset: int) -> Tensor:
    """The same rows `offset` elements into a longer buffer, as a piece of a message lies in it."""
    buffer = rows_RH.new_empty(rows_RH.numel() + 64)
    return buffer[offset : offset + rows_RH.numel()].view(rows_RH.shape).copy_(rows_RH)


def padded(rows_RH: Tensor, padding: int) -> Tensor:
    """The same rows with `padding` elements after each."""
    count, width = rows_RH.shape
    return rows_RH.new_full((count, width + padding), float("nan"))[:, :width].copy_(rows_RH)


PLACES: dict[str, Callable[[Tensor], Tensor]] = {
    **{f"offset {n}": lambda t, n=n: moved(t, n) for n in (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 33)},
    **{f"row stride +{n}": lambda t, n=n: padded(t, n) for n in (1, 8, 24)},
}  # fmt: skip
COUNTS = (1, 3, 5, 37, 13, 16, 4, 1)
"""Rows per block: below and above a product's small forms, whole tiles and parts."""
BLOCKS = [Block(e % 4, e // 4, sum(COUNTS[:e]), n) for e, n in enumerate(COUNTS)]


def experts_of(kind: str, rows: Rows) -> tuple[ExpertOp, Callable[[int, torch.dtype], Tensors]]:
    """An operator, and the tensors of its expert e: a family's, or SwiGLU of widths that no vector unit divides."""
    if kind != "odd widths":
        return expert_op(site_of(kind), CPU, rows), lambda e, dtype: random_tensors(kind, e, dtype)
    shapes = {"gate_up_proj": (2 * 37, 101), "down_proj": (101, 37)}
    op = ByBlock(SwiGLUExpert()) if rows == "block" else TiledSwiGLU(None if rows == "expert" else rows)
    return op, lambda e, dtype: {n: values(*s, seed=e, dtype=dtype) * 0.2 for n, s in shapes.items()}


def run_experts(kind: str, rows: Rows, place: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Tensors:
    """Forward and backward of a wave whose rows, answers and their gradients all lie at `place`."""
    op, tensors_of = experts_of(kind, rows)
    tensors = {e: tensors_of(e, dtype) for e in range(4)}
    shape = sum(COUNTS), len(tensors[0]["down_proj"]) if kind == "odd widths" else HIDDEN
    x_RH, dy_RH = (place(values(*shape, seed=s, dtype=dtype)) for s in (1, 2))
    y_RH, dx_RH = (place(torch.zeros(shape, dtype=dtype)) for _ in range(2))
    grads = {e: {n: torch.zeros(t.shape) for n, t in of.items()} for e, of in tensors.items()}
    op.backward(dy_RH, op.forward(x_RH, BLOCKS, tensors, y_RH), tensors, grads, dx_RH)()
    return {"y": y_RH, "dx": dx_RH, **{f"{n}[{e}]": g for e, of in grads.items() for n, g in of.items()}}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ["block", "expert", 16], ids=str)
@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss", "odd widths"])
def test_experts_do_not_see_where_their_rows_lie(kind: str, rows: Rows, dtype: torch.dtype) -> None:
    reference = run_experts(kind, rows, torch.clone, dtype)
    found = {name: differing(run_experts(kind, rows, place, dtype), reference) for name, place in PLACES.items()}
    assert {name: names for name, names in found.items() if names} == {}


def run_routing(place: Callable[[Tensor], Tensor], width: int, dtype: torch.dtype, tokens: int = 64) -> Tensors:
    """Top-k, dispatch, combine and their backwards of one micro-batch [tokens, width], 4 of 16 experts."""
    scores = values(tokens, 16, seed=1, dtype=dtype)
    chosen_TK, index_TK = topk_by_index(place(scores), 4)
    routing = make_routing(index_TK, 14)  # the last two do not exist: some slots have no row
    hidden_TH, dout_TH = (place(values(tokens, width, seed=s, dtype=dtype)) for s in (2, 3))
    answers_RH, drows_RH = (place(values(routing.num_rows, width, seed=s, dtype=dtype)) for s in (4, 5))
    weights_TK = place(chosen_TK)
    danswers_RH, dweights_TK = combine_backward(dout_TH, answers_RH, hidden_TH, weights_TK, routing)
    return {
        "index": index_TK,
        "rows": permute(hidden_TH, routing),
        "combined": unpermute(answers_RH, hidden_TH, weights_TK, routing),
        "danswers": danswers_RH,
        "dweights": dweights_TK,
        "dhidden": permute_backward(drows_RH, dout_TH, weights_TK, routing),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [64, 100, 257])
def test_routing_does_not_see_where_its_rows_lie(width: int, dtype: torch.dtype) -> None:
    reference = run_routing(torch.clone, width, dtype)
    found = {name: differing(run_routing(place, width, dtype), reference) for name, place in PLACES.items()}
    assert {name: names for name, names in found.items() if names} == {}


def test_an_activation_would_see_padding_between_received_rows() -> None:
    """Negative control: SiLU has a vector body and a scalar tail, and strides decide which element falls where. So our
    experts apply it to buffers of their own, never to what was received."""
    rows = values(64, 100) * 3
    assert torch.equal(F.silu(moved(rows, 5)), F.silu(rows)), "the address alone is harmless"
    assert not torch.equal(F.silu(padded(rows, 1)), F.silu(rows))


def test_the_same_value_elsewhere_in_a_tensor_has_another_silu() -> None:
    """Negative control: the reason why no element-wise operator works across blocks of several lanes."""
    whole = values(1000) * 3
    pieces = torch.cat([F.silu(piece.clone()) for piece in whole.split(7)])
    assert 0 < int((pieces != F.silu(whole)).sum()) < 1000


# ---------------------------------------------------------------------------------------------------------------------
# Who is computed beside a block (T3), with the math library as it comes and in its strict mode


def block_alone_and_beside() -> dict[str, list[int]]:
    """For blocks of 1 to 40 rows: those whose bits change when another lane's rows stand before them in the wave, and
    those whose rows change when both lanes' rows are one product."""
    torch.set_num_threads(1)
    width, inner = 64, 128
    w_NK = values(inner, width, seed=9)
    tensors = {0: {"gate_up_proj": values(2 * inner, width, seed=3), "down_proj": values(width, inner, seed=4)}}
    op, beside, merged = ByBlock(SwiGLUExpert()), [], []
    for count in range(1, 41):
        x_RH = values(160 + count, width, seed=count)
        alone, together = torch.empty(count, width), torch.empty_like(x_RH)
        op.forward(x_RH[160:], [Block(0, 1, 0, count)], tensors, alone)
        op.forward(x_RH, [Block(0, 0, 0, 160), Block(0, 1, 160, count)], tensors, together)
        if not torch.equal(together[160:], alone):
            beside.append(count)
        if not torch.equal(F.linear(x_RH, w_NK)[160:], F.linear(x_RH[160:], w_NK)):
            merged.append(count)
    return {"beside": beside, "merged": merged}


def in_environment(changes: dict[str, str | None]) -> dict[str, list[int]]:
    """`block_alone_and_beside` in a fresh process; None takes a variable away."""
    environment = {k: v for k, v in (os.environ | changes).items() if v is not None}
    code = "import json; from tests.ops import test_invariance as t; print(json.dumps(t.block_alone_and_beside()))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


def test_a_block_does_not_see_its_neighbours_and_one_product_for_both_would() -> None:
    """Each block is its own product, of the same shape whoever else is there: no mode of the library is needed. The
    negative control, in a plain process: rows of few, merged into one product with another lane's, get other bits."""
    plain = in_environment({"MKL_CBWR": None, "HF_HUB_OFFLINE": "1"})
    assert plain["beside"] == [] and plain["merged"] != []
    assert block_alone_and_beside()["beside"] == []


# ---------------------------------------------------------------------------------------------------------------------
# Run to run with two threads (T4)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_threads_give_the_same_bits_in_every_run_and_as_one(dtype: torch.dtype) -> None:
    """d = 256, S = 128, eight sequences: large enough that torch takes both threads."""
    runs = [run_routing(torch.clone, 256, dtype, tokens=1024) for _ in range(3)]
    torch.set_num_threads(1)
    alone = run_routing(torch.clone, 256, dtype, tokens=1024)
    assert [differing(run, alone) for run in runs] == [[], [], []]


@pytest.mark.usefixtures("two_threads")
def test_indexing_by_a_tensor_gives_other_gradients_from_run_to_run() -> None:
    """Negative control: the backward of `w[ids]` adds wherever the two threads come by (pytorch issue 51366)."""
    table, ids = values(512, 256).requires_grad_(), torch.randint(512, (4096,), generator=torch.Generator())
    dout = values(4096, 256, seed=2)

    def gradient(look_up: Callable[[], Tensor]) -> Tensor:
        return torch.autograd.grad(look_up(), table, dout)[0]

    chosen = [gradient(lambda: table.index_select(0, ids)) for _ in range(5)]
    assert all(torch.equal(other, chosen[0]) for other in chosen), "what we use instead"
    indexed = gradient(lambda: table[ids])
    assert any(not torch.equal(gradient(lambda: table[ids]), indexed) for _ in range(2000))


# ---------------------------------------------------------------------------------------------------------------------
# Who owns a tensor (T7)

SIZES = (1000, 100_003, 1 << 20)
STEPS = 6
KINDS = OwnedAdamW.declaration.kinds_like_parameters


def train(parts: dict[str, Sequence[int]]) -> dict[str, Tensor]:
    """Six AdamW steps on vectors that are cut into `parts`, each part owned by a worker of its own; whole again,
    weights and moments."""
    owners: dict[str, list[OwnedAdamW]] = {}
    masters: dict[str, Tensor] = {}
    for name, sizes in parts.items():
        masters[name] = values(sum(sizes), seed=sum(sizes))
        owners[name] = [OwnedAdamW(AdamW(lr=1e-2), {name: piece}) for piece in masters[name].split(list(sizes))]
    for step in range(1, STEPS + 1):
        for name, sizes in parts.items():
            gradient = values(sum(sizes), seed=step)
            for owner, piece in zip(owners[name], gradient.split(list(sizes)), strict=True):
                owner.step({name: piece.clone()}, 1e-2 / step)
    kept = {(n, k): [v for o in of for k_, _, v in o.state() if k_ == k] for n, of in owners.items() for k in KINDS}
    return masters | {f"{kind} of {name}": torch.cat(pieces) for (name, kind), pieces in kept.items()}


def cut(size: int, piece: int) -> list[int]:
    return [piece] * (size // piece) + [size % piece] * (size % piece > 0)


def test_an_update_does_not_see_who_owns_what() -> None:
    """All tensors on one worker, or each on its own."""
    masters = {str(size): values(size, seed=size) for size in SIZES}
    together = OwnedAdamW(AdamW(lr=1e-2), masters)
    for step in range(1, STEPS + 1):
        together.step({str(size): values(size, seed=step) for size in SIZES}, 1e-2 / step)
    ours = masters | {f"{kind} of {name}": t for kind, name, t in together.state() if kind in KINDS}
    assert differing(ours, train({str(size): [size] for size in SIZES})) == []


@pytest.mark.parametrize("size", SIZES)
def test_a_tensor_may_be_cut_at_multiples_of_64_and_nowhere_else(size: int) -> None:
    """The second half is the negative control: the fused kernel has a scalar tail, whose bits differ in a few of a
    million values. So a tensor is owned whole."""
    whole = train({"vector": [size]})
    aligned = size // 192 * 64
    assert differing(train({"vector": [aligned, size - aligned]}), whole) == []
    assert differing(train({"vector": cut(size, 64 * (1 + size // 6400))}), whole) == []
    odd = train({"vector": cut(size, 7 * (1 + size // 10_000))})
    assert "vector" in differing(odd, whole)
    assert int((odd["vector"] != whole["vector"]).sum()) < size / 100


# ---------------------------------------------------------------------------------------------------------------------
# In which order lanes arrive


def test_lanes_are_summed_in_their_tree_whatever_the_order_of_arrival() -> None:
    """The negative control adds every lane when it comes."""
    lanes = 6
    leaves = [values(10_000, seed=lane) for lane in range(lanes)]
    orders = [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (3, 0, 5, 1, 4, 2)]
    trees, chains = [], []
    for order in orders:
        trees.append(LaneTree(lanes).sum({(lane, 1): leaves[lane].clone() for lane in order}))
        chain = torch.zeros(10_000)
        for lane in order:
            chain += leaves[lane]
        chains.append(chain)
    assert all(torch.equal(tree, trees[0]) for tree in trees)
    assert not torch.equal(chains[1], chains[0]) and not torch.equal(chains[2], chains[0])
