"""Finds, in a source's text, operations whose bits depend on the layout, the thread count or the run.

It reads names, not types. It does not see: tensors in containers or returned by own functions (unless their name has a
shape suffix), what is reached through `getattr` with a computed name, and what happens inside torch and transformers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

Finding = tuple[int, str]
"""(line, what is wrong)."""
Names = dict[str, bool]
"""Whether a local name stands for a tensor (or for a joined buffer), as far as that can be told."""

ACCUMULATING = {
    "index_add", "index_put", "index_reduce", "scatter_add", "scatter_reduce", "put", "masked_scatter",
    "segment_reduce", "embedding_bag",
}  # fmt: skip
REDUCING = re.compile(r"_?(all_?reduce|reduce_scatter)\w*|reduce_(op_)?tensor|all_gather_matmul")
"""Collectives that add, as functions of torch.distributed and as methods of a process group."""
MOVING = {
    "P2POp", "isend", "irecv", "send", "recv", "batch_isend_irecv", "all_to_all", "all_to_all_single", "all_gather",
    "all_gather_into_tensor", "all_gather_single", "all_gather_object", "broadcast", "gather", "scatter", "barrier",
    "init_process_group", "destroy_process_group", "new_group", "group", "ProcessGroup", "is_initialized", "Work",
    "get_rank", "get_group_rank", "get_global_rank", "get_world_size",
    "TCPStore", "PrefixStore", "Store", "ProcessGroupGloo", "DistError", "DistStoreError",
    "Backend",
}  # fmt: skip
UNKEYED = {"rand", "randint", "randperm", "rand_like", "randint_like", "bernoulli", "multinomial"}
UNKEYED |= {"uniform_", "random_", "bernoulli_", "exponential_", "geometric_"}
WIDTH_DEPENDENT = {"randn", "randn_like", "normal", "normal_", "log_normal_", "trunc_normal_", "cauchy_"}
SUMMING = {"sum", "mean", "norm", "vector_norm", "dot", "vdot", "prod", "nansum", "var", "std"}
JOINING = {"cat", "concat", "concatenate", "hstack", "parameters_to_vector", "_flatten_dense_tensors"}

SHAPE_SUFFIX = re.compile(r"[a-z_]\w*_[A-Z][A-Z0-9]{0,3}")
NO_TENSOR_FUNCTIONS = {"device", "finfo", "iinfo", "no_grad", "enable_grad", "set_grad_enabled", "manual_seed"}
NO_TENSOR_METHODS = {
    "item", "tolist", "dim", "size", "numel", "element_size", "stride", "data_ptr", "is_floating_point", "split",
    "unbind", "any", "all", "storage_offset", "is_contiguous", "numpy", "chunk",
}  # fmt: skip
TENSOR_ATTRIBUTES = {"T", "mT", "H", "grad", "data", "values", "indices"}


def accumulations(module: ast.Module) -> Iterator[Finding]:
    """Rule 5: additions into places that an index names, whose order is the kernel's."""
    for node in _calls(module):
        name = _last(node.func)
        named = {keyword.arg for keyword in node.keywords}
        if name.rstrip("_") in ACCUMULATING:
            yield node.lineno, f"{name} adds in an order of its own; sort and add in order (ops/permute.py)"
        elif name.rstrip("_") == "scatter" and "reduce" in named:
            yield node.lineno, f"{name} with reduce adds in an order of its own"
        elif name == "bincount" and ("weights" in named or len(node.args) > 1):
            yield node.lineno, "bincount with weights adds floats in an order of its own; count integers"


def tensor_indices(module: ast.Module) -> Iterator[Finding]:
    """Rule 5: `x[ids]`, whose backward is index_put_ with accumulate: with two threads other bits in every run."""
    for scope, tensors in _scopes(module):
        for node in ast.walk(scope):
            if not isinstance(node, ast.Subscript) or _is_type(node.value):
                continue
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if any(isinstance(part, ast.List) or _is_tensor(part, tensors) for part in parts):
                yield node.lineno, f"{ast.unparse(node)} indexes by a tensor; use index_select, gather or torch.where"


def reductions(module: ast.Module) -> Iterator[Finding]:
    """Rule 8: collectives move data, they never add."""
    aliases = {"torch.distributed"}
    for node in ast.walk(module):
        for path, bound in _imports(node):
            package, _, last = path.rpartition(".")
            if path == "torch.distributed" or (path.startswith("torch.distributed.") and isinstance(node, ast.Import)):
                aliases.add(bound)
            elif package.startswith("torch.distributed") and last not in MOVING:
                yield node.lineno, f"imports {last}, which is not known to only move data"
    whole = {id(n) for scope in ast.walk(module) if _adds_whole_numbers(scope) for n in ast.walk(scope)}
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute):
            known = ast.unparse(node.value) in aliases
            if id(node) not in whole and (REDUCING.fullmatch(node.attr) or (known and node.attr not in MOVING)):
                yield node.lineno, f"{ast.unparse(node)} is not known to only move data; add in the lanes' tree"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and REDUCING.fullmatch(node.value):
            yield node.lineno, f"names {node.value!r}, which adds in an order of its own"


def unkeyed_chance(module: ast.Module) -> Iterator[Finding]:
    """Rule 13: chance is keyed by the job's seed and its place; normals do not come from torch."""
    own = {bound for node in ast.walk(module) for path, bound in _imports(node) if path.startswith("dougong.")}
    for node in _calls(module):
        name, receiver = _last(node.func), ast.unparse(node.func).rpartition(".")[0]
        if receiver in own or (not receiver and name in own):
            continue
        if name == "manual_seed" and not _is_keyed(node, receiver):
            yield node.lineno, f"{ast.unparse(node)} is not keyed; seed by torch_seed(seed, *place)"
        elif name in WIDTH_DEPENDENT:
            yield node.lineno, f"{name}: its bits depend on the CPU's vector width; use ops/counter_rng.py"
        elif name in UNKEYED and "generator" not in {keyword.arg for keyword in node.keywords}:
            yield node.lineno, f"{ast.unparse(node.func)} without a generator draws from the process's stream"
        elif re.match(r"(np|numpy)\.random\.(?!Philox)", ast.unparse(node.func)) or receiver == "random":
            yield node.lineno, f"{ast.unparse(node.func)} is not keyed; use ops/counter_rng.py"


def flat_sums(module: ast.Module) -> Iterator[Finding]:
    """Rule 12: no sum over a joined buffer, whose length the layout decides."""
    for scope, flat in _scopes(module, joined=True):
        for node in _calls(scope):
            if _last(node.func) not in SUMMING or not isinstance(node.func, ast.Attribute):
                continue
            by_function = ast.unparse(node.func.value) in ("torch", "torch.linalg", "F")
            summed = node.args[:2] if by_function else [node.func.value, *node.args]
            by_dimension = _last(node.func) not in ("dot", "vdot") and (
                len(node.args) > by_function or any(k.arg in ("dim", "axis") for k in node.keywords)
            )
            if not by_dimension and any(_is_joined(part, flat) for part in summed):
                yield node.lineno, f"{ast.unparse(node)} sums a joined buffer; sum each named tensor, add in name order"


# ---------------------------------------------------------------------------------------------------------------------
# What a name stands for, as far as it can be told


def _imports(node: ast.AST) -> list[tuple[str, str]]:
    """(dotted path of what is imported, the name that stands for it)."""
    if isinstance(node, ast.Import):
        return [(a.name, a.asname or a.name) for a in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(f"{node.module}.{a.name}", a.asname or a.name) for a in node.names]
    return []


def _calls(scope: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(scope) if isinstance(node, ast.Call))


def _last(func: ast.expr) -> str:
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


def _is_type(node: ast.expr) -> bool:
    """`Callable[[int], str]`, `dict[...]`: an annotation, no value."""
    return isinstance(node, ast.Name) and (node.id[0].isupper() or node.id in ("dict", "list", "tuple", "type"))


def _adds_whole_numbers(scope: ast.AST) -> bool:
    """A function that asserts its tensor to be int64: such sums are exact in any order."""
    return isinstance(scope, ast.FunctionDef) and any(
        isinstance(part, ast.Assert) and ast.unparse(part.test).endswith(".dtype == torch.int64") for part in scope.body
    )


def _is_keyed(node: ast.Call, receiver: str) -> bool:
    """By torch_seed, or by a literal for a generator of one's own."""
    seeds = [*node.args, *(k.value for k in node.keywords)]
    own = receiver not in ("torch", "torch.random") and all(isinstance(s, ast.Constant) for s in seeds)
    return own or any(isinstance(s, ast.Call) and _last(s.func) == "torch_seed" for s in seeds)


def _scopes(module: ast.Module, joined: bool = False) -> Iterator[tuple[ast.AST, Names]]:
    """Outermost functions, and what their names stand for: tensors, or with `joined` joined buffers."""
    for node in _outermost(module):
        every = [a for n in ast.walk(node) if isinstance(n, ast.arguments) for a in (*n.args, *n.kwonlyargs)]
        names = {a.arg: not joined and _names_tensor(a.annotation) for a in every if a.annotation is not None}
        for _ in range(3):  # a name may be used above the line that tells what it is
            for part in ast.walk(node):
                names |= {name: names.get(name, False) or told for name, told in _assigned(part, names, joined).items()}
        yield node, names


def _outermost(module: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(module):
        if isinstance(node, ast.ClassDef):
            yield from _outermost(node)
        else:
            yield node


def _assigned(node: ast.AST, names: Names, joined: bool) -> Names:
    """What an assignment tells of its targets: nothing, if its value cannot be told."""
    if not isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) or node.value is None:
        return {}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    elements = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
    told = _is_joined(node.value, names) if joined else _is_tensor(node.value, names)
    told = told or (isinstance(node, ast.AnnAssign) and not joined and _names_tensor(node.annotation))
    if not told and not _is_numpy(node.value, names):
        return {}
    return {e.id: told for e in elements if isinstance(e, ast.Name)}


def _is_numpy(node: ast.expr, names: Names) -> bool:
    """Made by numpy, or from what is known to be no tensor: there `x[ids]` is harmless."""
    roots = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
    return "np" in roots or (bool(roots) and all(names.get(name) is False for name in roots))


def _names_tensor(annotation: ast.expr) -> bool:
    return ast.unparse(annotation) in ("Tensor", "torch.Tensor", "Tensor | None")


def _is_tensor(node: ast.expr, names: Names) -> bool:
    if isinstance(node, ast.Name):
        return names.get(node.id, SHAPE_SUFFIX.fullmatch(node.id) is not None)
    if isinstance(node, ast.Attribute):
        by_name = SHAPE_SUFFIX.fullmatch(node.attr) is not None
        return by_name or (node.attr in TENSOR_ATTRIBUTES and _is_tensor(node.value, names))
    if isinstance(node, ast.Call):
        return _makes_tensor(node, names)
    if isinstance(node, ast.Subscript):
        return _is_tensor(node.value, names)
    if isinstance(node, ast.Compare):
        plain = all(isinstance(o, ast.Is | ast.IsNot | ast.In | ast.NotIn) for o in node.ops)
        return not plain and any(_is_tensor(part, names) for part in (node.left, *node.comparators))
    if isinstance(node, ast.BinOp | ast.UnaryOp | ast.IfExp):
        return any(_is_tensor(part, names) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr))
    return False


def _makes_tensor(node: ast.Call, names: Names) -> bool:
    if not isinstance(node.func, ast.Attribute):
        return False
    if ast.unparse(node.func.value) in ("torch", "F"):
        return node.func.attr.islower() and node.func.attr not in NO_TENSOR_FUNCTIONS
    return node.func.attr not in NO_TENSOR_METHODS and _is_tensor(node.func.value, names)


def _is_joined(node: ast.expr, names: Names) -> bool:
    """Whether a joined buffer is anywhere in the expression."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and _last(part.func) in JOINING:
            return True
        if isinstance(part, ast.Name) and (names.get(part.id) or re.search(r"flat|bucket|buffer", part.id)):
            return True
    return False
