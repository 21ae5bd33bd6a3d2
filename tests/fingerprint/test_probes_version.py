"""The probes' version is raised when what they compute may have changed, and stays when only words or layout did."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from dougong.fingerprint import attention, bench, experts, general, job_shapes, record
from dougong.fingerprint.record import PROBES_VERSION

MODULES = (attention, bench, experts, general, job_shapes)
RECORDED = {1: "3eba0a22528450c0", 2: "d179f77f1fe6541b"}
"""Version -> `syntax_of` the modules in which the probes are written. A version that was released stays as it is."""


def syntax_of(sources: list[str]) -> str:
    """Digest of what the sources do: no comments, docstrings, layout, annotations or imports."""
    words = [word for source in sources for word in in_words(ast.parse(source))]
    return hashlib.blake2b("\0".join(words).encode(), digest_size=8).hexdigest()


def in_words(node: object) -> Iterator[str]:
    """Kinds of nodes, names and constants, in order. What is empty is left out, since Pythons differ in it."""
    if isinstance(node, list):
        for item in node:
            yield from in_words(item)
    elif not isinstance(node, ast.AST):
        yield repr(node)
    elif not (isinstance(node, ast.Import | ast.ImportFrom) or is_docstring(node)):
        yield type(node).__name__
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "kind", "type_comment") and value not in (None, []):
                yield name
                yield from in_words(value)


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def test_the_version_is_that_of_the_probes() -> None:
    now = syntax_of([Path(str(module.__file__)).read_text() for module in MODULES])
    assert RECORDED[PROBES_VERSION] == now, (
        f"the probes' syntax has changed: if any probe could now give other bits or has another name, raise "
        f"{record.__name__}.PROBES_VERSION; then record {now!r} here"
    )


def test_words_and_layout_do_not_count() -> None:
    source = Path(str(general.__file__)).read_text()
    reworded = source.replace('"""', '"""Another sentence. ', 1) + "\n# a comment\n"
    assert syntax_of([reworded]) == syntax_of([source])
    assert syntax_of([ast.unparse(ast.parse(source))]) == syntax_of([source])


def test_a_computation_counts() -> None:
    source = Path(str(general.__file__)).read_text()
    assert syntax_of([source.replace("*", "+", 1)]) != syntax_of([source])
