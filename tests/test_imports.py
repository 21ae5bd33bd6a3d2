"""The promise on imports inside functions: they are for what is slow to load, or may be missing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.test_house import HEAVY, MODULES, SOURCES, begins, imported, name, tree

# Modules of ours that load a heavy library at their top: imported inside functions by those who must start quickly.
LOADS_HEAVY = (
    "dougong.cli.traffic",  # torch
    "dougong.fingerprint.take",  # torch
    "dougong.models.configs.load",  # torch
    "dougong.models.stored.values",  # torch
    "dougong.ops.experts.ascend_swiglu",  # torch
    "dougong.ops.experts.triton_swiglu",  # torch, triton
    "dougong.tools.export",  # torch
    "dougong.tools.import_deepspeed",  # torch
    "dougong.parallel.bridge.host_end",  # torch
    "dougong.training.start.preflight",  # torch
)
# Libraries that need not be installed, or are there for one kind of device.
SLOW = ("numpy", "PIL")  # a tenth of a second, that a plan of ordinary size does not need; images do
OPTIONAL = ("deepspeed", "pynvml", "tokenizers", "torch_npu")


def test_imports_inside_functions_are_for_heavy_libraries() -> None:
    """Or for a library that may be missing, or for a module of ours that loads a heavy one."""
    inside = [(path, line, module) for path in SOURCES for line, module in imported_inside_functions(path)]
    allowed = (*HEAVY, *SLOW, *OPTIONAL, *LOADS_HEAVY)
    strays = [
        f"{name(path)}:{line}: {module}"
        for path, line, module in inside
        if not any(begins(module, one) for one in allowed)
    ]
    assert not strays
    unused = set(LOADS_HEAVY) - {module for _, _, module in inside}
    assert not unused, "named in LOADS_HEAVY, but nobody imports them inside a function"
    light = [module for module in LOADS_HEAVY if not loads_heavy(module)]
    assert not light, "named in LOADS_HEAVY, but they load nothing heavy: import them at the top"


def imported_inside_functions(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of each import in a function's body; of `from a import b`, a.b where that is a module of ours."""
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = {
        (line, dotted if dotted in MODULES or dotted.rpartition(".")[0] not in MODULES else dotted.rpartition(".")[0])
        for function in functions
        for line, dotted in imported(ast.Module(function.body, []))
    }
    yield from sorted(found)


def loads_heavy(module: str) -> bool:
    """Whether a module, or one of ours that it imports at its top, imports a heavy library there."""
    waiting, reached = [module], set()
    while waiting:
        for dotted in imported_at_top(waiting.pop()):
            if any(begins(dotted, library) for library in HEAVY):
                return True
            owner = dotted if dotted in MODULES else dotted.rpartition(".")[0]
            if owner in MODULES and owner not in reached:
                reached.add(owner)
                waiting.append(owner)
    return False


def imported_at_top(module: str) -> list[str]:
    """What is imported when a module is loaded, not what is for type checkers alone."""
    body = [node for node in tree(MODULES[module]).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return [dotted for _, dotted in imported(ast.Module(body, []))]
