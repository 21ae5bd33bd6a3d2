"""No vendor's name stands outside the accelerators' room and the vendor's own file of fused operators.

What counts is what a program does with a name: identifiers, imports, and text that is no docstring. Prose may tell of
vendors; the parts of code that must not know any are the others.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dougong.accelerators.generic import GenericAccelerator
from dougong.accelerators.registry import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
ROWS = [kind for kind in BUILT_IN if issubclass(kind, GenericAccelerator)]


def words_of(kind: type[GenericAccelerator]) -> set[str]:
    """Its names, in small letters: of the device, its module, library, variables and tool."""
    names = {kind.name, kind.device_type, kind.backend, kind.plugin, kind.package, kind.build, *kind.also_called}
    names |= {kind.visible_devices_variable or "", kind.interface_variable or "", kind.tool.partition(" ")[0]}
    names |= {*kind.environment, *kind.deterministic_environment, *(one.variable for one in kind.defaults)}
    return {name.lower() for name in names if name}


WORDS = {word for kind in ROWS for word in words_of(kind)} | {"pynvml"}
WORDS -= {"gpu"}  # no vendor's: Ray calls so what several make


def exempt(path: Path) -> bool:
    """The room itself, and files of operators that a row names as its own."""
    inside = path.relative_to(ROOT / "dougong").as_posix()
    own = {module.partition(".")[2].partition("_")[0] for kind in ROWS for module in kind.fused_operators}
    return inside.startswith("accelerators/") or any(inside.startswith(f"ops/experts/{vendor}_") for vendor in own)


def said_in(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of identifiers, imports and text, docstrings left out."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name | ast.Attribute | ast.keyword | ast.arg | ast.alias):
            named = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "arg", None)
            yield node.lineno, named or getattr(node, "name", "")
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def strays(source: str) -> list[tuple[int, str]]:
    found = []
    for line, text in said_in(source):
        said = text.lower()
        parts = {said, *re.split(r"[^a-z0-9-]+", said), *re.split(r"[^a-z0-9_]+", said), *re.split("[^a-z0-9]+", said)}
        found += [(line, word) for word in sorted(parts & WORDS)]
    return found


def test_no_vendor_s_name_outside_its_home() -> None:
    found = []
    for path in sorted((ROOT / "dougong").rglob("*.py")):
        if not exempt(path):
            found += [f"{path.relative_to(ROOT)}:{line}: {word}" for line, word in strays(path.read_text())]
    assert not found


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("import torch_npu", "torch_npu"),
        ("from torch.cuda import amp", "cuda"),
        ("x.cuda()", "cuda"),
        ("place = 'npu:0'", "npu"),
        ("environment['NCCL_SOCKET_IFNAME'] = 'eth0'", "nccl_socket_ifname"),
        ("run(['npu-smi', 'info'])", "npu-smi"),
        ("def to_npu(x): pass", "npu"),
        ("f'{kind} of nvidia'", "nvidia"),
    ],
)
def test_the_search_finds(source: str, word: str) -> None:
    assert word in [found for _, found in strays(source)]


def test_prose_may_tell_of_vendors() -> None:
    assert not strays('"""NCCL and HCCL."""\n\n# cuda\ndef f():\n    """As torch_npu does."""\n')
