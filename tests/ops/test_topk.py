"""The k largest, ties by the lower index: against a stable sort, against torch, and only where it is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dougong.errors import ModelError
from dougong.ops.topk import TiesByIndex, topk_by_index
from greenlet import getcurrent, greenlet
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64)
NAN, INF = float("nan"), float("inf")


def expected(scores: list[float], k: int) -> list[int]:
    """The rule itself in plain Python: NaN, then larger values, then lower indices."""
    return sorted(range(len(scores)), key=lambda i: (scores[i] == scores[i], -scores[i], i))[:k]


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, INF, -INF, NAN, -NAN, 6e-8, -6e-8]), min_size=1), st.data())
@settings(max_examples=300, deadline=None)
def test_the_rule(values: list[float], data: Any) -> None:
    """Among few different values, special ones included, nearly everything is a tie."""
    k = data.draw(st.integers(0, len(values)))
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        scores = torch.tensor(values, dtype=dtype)
        chosen, indices = topk_by_index(scores, k)
        assert indices.tolist() == expected(scores.tolist(), k)
        assert chosen.dtype == dtype and indices.dtype == torch.int64
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[scores.element_size()]
        assert torch.equal(chosen.view(bits), scores.view(bits)[indices]), "the scores' own bits, also of -0.0 and NaN"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [-1, 0, 1])
@pytest.mark.parametrize("levels", [4, 1 << 20])
def test_a_stable_sort_chooses_alike_on_any_shape(dtype: torch.dtype, dim: int, levels: int) -> None:
    """With four levels everything is tied; with a million the dtype's own rounding ties some."""
    generator = torch.Generator().manual_seed(levels)
    scores = (torch.randint(-levels, levels, (6, 40, 50), generator=generator) / 3).to(dtype)
    for k in (1, 5):
        values, indices = topk_by_index(scores, k, dim)
        by_sort = torch.sort(scores, dim=dim, descending=True, stable=True)
        assert torch.equal(indices, by_sort.indices.narrow(dim, 0, k))
        assert torch.equal(values, by_sort.values.narrow(dim, 0, k))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_chosen_alike_alone_strided_and_with_more_threads(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(-20, 20, (512, 128), generator=generator).to(dtype)
    whole = topk_by_index(scores, 8)[1]
    alone = torch.cat([topk_by_index(row[None], 8)[1] for row in scores])
    padded = torch.empty(512, 136, dtype=dtype)[:, 5:133].copy_(scores)
    torch.set_num_threads(2)
    threaded = topk_by_index(scores, 8)[1]
    torch.set_num_threads(1)
    assert all(torch.equal(whole, other) for other in (alone, topk_by_index(padded, 8)[1], threaded))


@pytest.mark.parametrize("is_sorted", [True, False])
def test_torchs_topk_takes_others_among_equals(is_sorted: bool) -> None:
    """Negative control: the rule is needed. Eight equal logits in bfloat16, as a router's zero weights give them; and
    logits of 128 experts, which bfloat16 makes collide."""
    equal = torch.zeros(1, 8, dtype=torch.bfloat16)
    assert topk_by_index(equal, 2)[1].tolist() == [[0, 1]]
    assert torch.topk(equal, 2, sorted=is_sorted)[1].tolist() != [[0, 1]]
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(512, 128, generator=generator).to(torch.bfloat16)
    ours, torchs = (choose(logits, 8)[1].sort(-1)[0] for choose in (topk_by_index, torch.topk))
    assert int((ours != torchs).any(-1).sum()) > 3, "other experts, not only another order"


@pytest.mark.parametrize("dim", [-1, 0])
def test_the_gradient_is_torchs(dim: int) -> None:
    """Bit by bit, where there are no ties."""
    scores = torch.randn(30, 20, generator=torch.Generator().manual_seed(1))
    gradients = []
    for choose in (topk_by_index, torch.topk):
        leaf = scores.clone().requires_grad_()
        values, indices = choose(leaf, 3, dim)
        assert values.requires_grad and not indices.requires_grad
        weights = torch.arange(values.numel(), dtype=torch.float32).view(values.shape)
        gradients.append(torch.autograd.grad((values.square() * weights).sum(), leaf)[0])
    assert torch.equal(*gradients) and int((gradients[0] != 0).sum()) > 50


# ---------------------------------------------------------------------------------------------------------------------
# In place of torch's


TIED = torch.zeros(2, 8)


def is_by_index() -> bool:
    """What topk means here and now."""
    return torch.topk(TIED, 2)[1].tolist() == [[0, 1]] * 2


@pytest.mark.parametrize(
    "call",
    [
        lambda t: torch.topk(t, 2),
        lambda t: t.topk(2),
        lambda t: torch.topk(t, k=2, dim=-1, sorted=False),
        lambda t: torch.topk(input=t, k=2, dim=1, largest=True),
        lambda t: t.topk(2, -1, True, False),
    ],
)
def test_every_way_to_call_it_is_replaced_while_entered(call: Any) -> None:
    with TiesByIndex():
        answer = call(TIED)
    assert isinstance(answer, torch.return_types.topk)
    assert answer.indices.tolist() == answer[1].tolist() == [[0, 1]] * 2 and torch.equal(answer.values, TIED[:, :2])
    assert call(TIED)[1].tolist() != [[0, 1]] * 2, "and not afterwards"


def test_whatever_else_is_called_does_what_it_does() -> None:
    x = torch.randn(5, 7, requires_grad=True)
    with TiesByIndex():
        inside = torch.nn.functional.softmax(x, dim=-1).sort(-1, descending=True)[0][:, :2].sum()
    outside = torch.nn.functional.softmax(x, dim=-1).sort(-1, descending=True)[0][:, :2].sum()
    assert torch.equal(inside, outside) and type(inside.grad_fn) is type(outside.grad_fn)


@pytest.mark.parametrize("arguments", [{"largest": False}, {"out": (torch.empty(2, 2), torch.empty(2, 2).long())}])
def test_what_the_rule_does_not_cover_is_refused(arguments: dict[str, Any]) -> None:
    with TiesByIndex(), pytest.raises(ModelError, match=r"topk with largest=.* this family is not supported"):
        torch.topk(TIED, 2, **arguments)


def test_it_ends_with_an_error_and_only_with_the_outermost_of_several() -> None:
    ties = TiesByIndex()
    with pytest.raises(KeyboardInterrupt), ties, ties:
        raise KeyboardInterrupt
    assert not is_by_index()
    with ties:
        with ties:
            assert is_by_index()
        assert is_by_index()
        with ties.suspended():
            assert not is_by_index()
        assert is_by_index()
    assert not is_by_index()


def paused(ties: TiesByIndex, told: list[Tensor]) -> str:
    with ties, ties:
        assert is_by_index()
        with ties.suspended():
            getcurrent().parent.switch("paused")
        assert is_by_index()
    assert not is_by_index()
    return "ended"


def test_greenlets_that_pause_inside_do_not_leave_it_on_for_others() -> None:
    """Also one that is dropped while paused: it is ended wherever the garbage collector finds it."""
    ties = TiesByIndex()
    first, second, dropped = (greenlet(lambda: paused(ties, [])) for _ in range(3))
    for each in (first, second, dropped):
        assert each.switch() == "paused" and not is_by_index()
    with ties:
        del dropped, each
        assert is_by_index()
    assert not is_by_index()
    assert first.switch() == "ended" and not is_by_index()
    assert second.switch() == "ended" and not is_by_index()
