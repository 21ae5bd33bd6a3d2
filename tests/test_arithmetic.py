"""No source uses an operation whose bits depend on the layout, the thread count or the run.

`arithmetic.py` finds them. The check is checked as well: what it must catch, and what it must let pass.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

import pytest
from tests.arithmetic import Finding, accumulations, flat_sums, reductions, tensor_indices, unkeyed_chance
from tests.test_house import ROOT, name, room_sources, tree

Rule = Callable[[ast.Module], Iterator[Finding]]
RULES: tuple[Rule, ...] = (accumulations, tensor_indices, reductions, unkeyed_chance, flat_sums)
# The fingerprint is none of them: it asks what a device makes of operations, these too.
ROOMS = ("accelerators", "ops", "parallel", "models", "checkpoint", "data", "training")
# Where a backend may add: `determinism: run` and `off` ask for it.
NATIVE = ROOT / "dougong" / "parallel" / "dense" / "allreduce.py"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("room", ROOMS)
def test_no_forbidden_operation(room: str, rule: Rule) -> None:
    found = [
        f"{name(path)}:{line}: {what}"
        for path in room_sources(room)
        if not (rule is reductions and path == NATIVE)
        for line, what in rule(tree(path))
    ]
    assert not found, "\n".join(found)


CAUGHT = {
    accumulations: [
        "total.index_add_(0, ids, rows)",
        "torch.index_add(total, 0, ids, rows)",
        "total.index_put_((ids,), rows, accumulate=True)",
        "total.scatter_add_(0, ids, rows)",
        "total.scatter_reduce(0, ids, rows, 'sum')",
        "total.scatter_(0, ids, rows, reduce='add')",
        "torch.bincount(ids, weights=rows)",
        "torch.bincount(ids, rows)",
    ],
    tensor_indices: [
        "def f(table: Tensor, ids: Tensor): return table[ids]",
        "def f(table, ids: torch.Tensor | None = None, *, more: Tensor): return table[:, more]",
        "def f(table_VH, ids_T): return table_VH[ids_T]",
        "def f(rows, routing): rows[routing.order_R] = 0",
        "def f(x: Tensor): return x[x > 0]",
        "def f(x: Tensor): return x[~x.isnan()]",
        "def f(x, n): return x[torch.arange(n)]",
        "def f(x, n):\n    order = torch.argsort(n)\n    first = order[:3]\n    return x[first]",
        "def f(x, n):\n    _, order = torch.sort(n)\n    return x[order + 1, 0]",
        "def f(x): return x[[0, 2]]",
        "def f(x):\n    def inner(ids: Tensor): return x[ids.long()]\n    return inner",
        "class A:\n    def f(self, ids: Tensor): return self.table[ids]",
        "def f(x, n):\n    while (ids := torch.nonzero(n)) is not None: x = x[ids.squeeze()]",
    ],
    reductions: [
        "import torch.distributed as dist\ndist.all_reduce(x)",
        "import torch\ntorch.distributed.reduce_scatter_tensor(a, b)",
        "import torch.distributed as d\nd.reduce(x, 0)",
        "from torch import distributed as dist\ndist.reduce(x, 0)",
        "from torch.distributed import all_reduce",
        "import torch.distributed.nn.functional as f\nf.reduce(x)",
        "from torch.distributed._functional_collectives import all_reduce_coalesced",
        "group.allreduce([x]).wait()",
        "self._gloo.reduce_scatter(a, b)",
        "getattr(dist, 'all_reduce')(x)",
        "import torch.distributed as dist\ndef f(n):\n    assert n.dtype == torch.float32\n    dist.all_reduce(n)",
    ],
    unkeyed_chance: [
        "torch.manual_seed(seed)",
        "torch.manual_seed(0)",
        "torch.Generator().manual_seed(rank)",
        "x = torch.rand(3)",
        "x = torch.randn(3, generator=g)",
        "weight.normal_(0, 0.02)",
        "nn.init.trunc_normal_(weight)",
        "weight.uniform_()",
        "np.random.default_rng(3)",
        "random.shuffle(x)",
        "from torch.nn.init import normal_\nnormal_(weight)",
    ],
    flat_sums: [
        "def f(parts):\n    joined = torch.cat(parts)\n    return joined.square().sum()",
        "def f(parts): return torch.linalg.vector_norm(torch.cat(parts))",
        "def f(flat): return torch.dot(flat, flat)",
        "def f(flat): return flat.dot(flat)",
        "def f(bucket): return (bucket * bucket).mean()",
        "def f(p): return torch.nn.utils.parameters_to_vector(p).norm()",
    ],
}
PASSING = {
    accumulations: [
        "total.add_(rows)",
        "rows.index_select(0, ids)",
        "zeros.scatter(0, ids, rows)",
        "torch.bincount(ids, minlength=5)",
        "total.index_copy_(0, ids, rows)",
    ],
    tensor_indices: [
        "def f(rows: Tensor, n: int): return rows[n], rows[1:3], rows[:, None], rows[..., -1], rows[: n + 1]",
        "def f(rows: Tensor): return rows[rows.shape[0] - 1], rows[: rows.size(0)]",
        "def f(counts_E, experts): return counts_E[experts[0] : experts[-1] + 1]",
        "def f(names: dict[str, Tensor], name: str) -> Callable[[int], Tensor]: return names[name]",
        "def f(x: Tensor, table: Mapping[torch.dtype, int]): return table[x.dtype]",
        "def f(x: Tensor, table): return table[x.dim()], table[int(x.sum())], table[x is None]",
        "def f(rows: Tensor, span: slice): return rows[span]",
        "def f(rows_X: Table):\n    slot_T = np.repeat(rows_X, 3)\n    next_T = slot_T + 1\n    return rows_X[next_T]",
        "HandOut = Callable[[Node, Tensor], None]",
    ],
    reductions: [
        "import torch.distributed as dist\ndist.batch_isend_irecv([dist.P2POp(dist.isend, x, 0, g)])",
        "import torch.distributed as dist\ndist.all_to_all_single(a, b)",
        "self._reducer.reduce(gradients)",
        "import torch.distributed as d\ndef f(n):\n    assert n.dtype == torch.int64, n\n    d.all_reduce(n)",
        "functools.reduce(add, numbers)",
        "'an all_reduce would add in an order of its own'",
        "from torch.distributed import PrefixStore, TCPStore",
    ],
    unkeyed_chance: [
        "torch.manual_seed(torch_seed(seed, 'dropout', step))",
        "generator = torch.Generator().manual_seed(0)",
        "torch.rand(3, generator=g)",
        "np.random.Philox(key=key)",
        "from dougong.ops.counter_rng import normal\nnormal(shape, seed, name)",
        "from dougong.ops import counter_rng\ncounter_rng.uniform(shape, seed, name)",
        "torch.linalg.norm(x)",
    ],
    flat_sums: [
        "def f(tensors): return [t.sum() for t in tensors]",
        "def f(x: Tensor): return torch.linalg.vector_norm(x)",
        "def f(parts): return torch.cat(parts).view(-1, 64).sum(1)",
        "def f(parts): return torch.sum(torch.cat(parts).view(-1, 64), dim=-1)",
        "def f(flat): return flat.split(3)",
        "def f(values): return sum(values)",
    ],
}


def cases(table: dict[Rule, list[str]]) -> list[object]:
    return [pytest.param(rule, text, id=f"{rule.__name__}: {text[:60]}") for rule, of in table.items() for text in of]


@pytest.mark.parametrize(("rule", "text"), cases(CAUGHT))
def test_is_caught(rule: Rule, text: str) -> None:
    assert list(rule(ast.parse(text)))


@pytest.mark.parametrize(("rule", "text"), cases(PASSING))
def test_passes(rule: Rule, text: str) -> None:
    assert not list(rule(ast.parse(text)))


def test_a_finding_names_its_line_and_a_way_out() -> None:
    text = "import torch\n\ndef f(table: Tensor, ids: Tensor):\n    return table[ids]\n"
    assert list(tensor_indices(ast.parse(text))) == [
        (4, "table[ids] indexes by a tensor; use index_select, gather or torch.where")
    ]
