"""YAML read into plain values, with the line and column of every key and value, and every mistake
at once.

Scalars follow YAML 1.2's core schema, whose surprises are fewer than YAML 1.1's: `1e-3` is a
number, `no` and `on` are text, `010` is ten, a date is text. What is written back is quoted so that
readers of either version agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]

MAX_DEPTH = 32
MAX_VALUES = 100_000
MAX_CHARACTERS = 1_000_000
MAX_KEY_CHARACTERS = 200

_TAG = "tag:yaml.org,2002:"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
# An integer also looks like a float; the first pattern that matches wins.
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
    ("merge", r"<<", ["<"]),
)
_YES_NO = re.compile(r"(?i:yes|no|on|off|y|n)")


@dataclass(frozen=True, order=True)
class Position:
    """A place in the text, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Problem:
    """A mistake in the YAML itself."""

    mark: Position
    path: KeyPath
    text: str


@dataclass
class YamlDocument:
    """The values, and where each was written: `keys` marks the key (or list item), `values` what
    stands there.

    `readable` False: there is no data, and `problems` has the one reason.
    """

    data: Any = None
    keys: dict[KeyPath, Position] = field(default_factory=dict)
    values: dict[KeyPath, Position] = field(default_factory=dict)
    yes_no: list[KeyPath] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    readable: bool = True


class _Loader(yaml.SafeLoader):
    """A loader with a table of scalars of its own, in place of YAML 1.1's."""


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would misread."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = (
            None if data.isprintable() else '"'
        )  # any other style would spread over several lines
        return self.represent_scalar(_TAG + "str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)
_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)
# SafeDumper quotes what YAML 1.1 would misread; this adds what only 1.2 reads as a number.
_Dumper.add_implicit_resolver(_TAG + "float", re.compile(rf"^(?:{_FLOAT})$"), list("-+0123456789."))


def read(text: str) -> YamlDocument:
    """Read one YAML document. Never raises for what the text holds: every mistake is in
    `problems`."""
    document = YamlDocument()
    try:
        if len(text) > MAX_CHARACTERS:
            raise _RefusedError(
                f"{len(text)} characters, more than {MAX_CHARACTERS}; is this the right file?"
            )
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            document.data = _NodeReader(document).value(node, ())
    except yaml.YAMLError as error:
        return _unreadable(_syntax_problem(error, text))
    except RecursionError:
        return _unreadable(
            Problem(Position(1, 1), (), f"nested deeper than {MAX_DEPTH} levels; flatten it")
        )
    except _RefusedError as error:
        return _unreadable(Problem(error.mark, (), str(error)))
    return document


def _unreadable(problem: Problem) -> YamlDocument:
    return YamlDocument(problems=[problem], readable=False)


def write_flow(value: Any) -> str:
    """One value on one line, as YAML that `read` (and a YAML 1.1 reader) reads back the same."""
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        width=math.inf,
        sort_keys=False,
        allow_unicode=True,
    )
    return text.removesuffix("\n").removesuffix("\n...")


class _RefusedError(Exception):
    def __init__(self, text: str, mark: Position | None = None) -> None:
        super().__init__(text)
        self.mark = mark or Position(1, 1)


class _NodeReader:
    """Walks the nodes of one document. An alias is read again at each place, so values are never
    shared."""

    def __init__(self, document: YamlDocument) -> None:
        self._document = document
        self._count = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        mark = _mark(node)
        self._count += 1
        if self._count > MAX_VALUES:
            raise _RefusedError(
                f"more than {MAX_VALUES} values once aliases are followed; write it out shorter",
                mark,
            )
        if len(path) > MAX_DEPTH:
            raise _RefusedError(
                f"nested deeper than {MAX_DEPTH} levels, or an alias inside itself; flatten it",
                mark,
            )
        self._document.values[path] = mark
        if isinstance(node, yaml.MappingNode) and self._has_tag(node, path, "map"):
            return dict(self._items(node, path))
        if isinstance(node, yaml.SequenceNode) and self._has_tag(node, path, "seq"):
            return [self._item(child, (*path, i)) for i, child in enumerate(node.value)]
        return self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None

    def _item(self, node: yaml.Node, path: KeyPath) -> Any:
        self._document.keys[path] = _mark(node)
        return self.value(node, path)

    def _items(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, Any]]:
        first: dict[str, Position] = {}
        for key_node, value_node in self._merged(node, path):
            key = key_node.value
            place = (*path, key)
            if not (isinstance(key, str) and key_node.tag == _TAG + "str"):
                self._problem(key_node, path, "a key must be text; put it in quotes")
            elif len(key) > MAX_KEY_CHARACTERS:
                self._problem(
                    key_node, path, f"a key has at most {MAX_KEY_CHARACTERS} characters; shorten it"
                )
            elif key in first:
                self._problem(
                    key_node, place, f"given twice, first on line {first[key].line}; keep one"
                )
            else:
                first[key] = self._document.keys[place] = _mark(key_node)
                yield key, self.value(value_node, place)

    def _merged(
        self, node: yaml.MappingNode, path: KeyPath
    ) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """The pairs of a mapping; after its own, those of `<<: *alias` whose keys it does not
        have."""
        own = [(key, value) for key, value in node.value if key.tag != _TAG + "merge"]
        yield from own
        seen = {key.value for key, _ in own if isinstance(key, yaml.ScalarNode)}
        for key, value in node.value:
            if key.tag != _TAG + "merge":
                continue
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(source, yaml.MappingNode):
                    self._problem(
                        source,
                        path,
                        "`<<` merges mappings; name an anchored mapping, as in `<<: *base`",
                    )
                    continue
                fresh = [
                    pair for pair in self._merge_source(source, path) if pair[0].value not in seen
                ]
                seen.update(key.value for key, _ in fresh)
                yield from fresh

    def _merge_source(
        self, source: yaml.MappingNode, path: KeyPath
    ) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        self._count += 1
        if self._count > MAX_VALUES:
            raise _RefusedError(
                f"more than {MAX_VALUES} values once aliases are followed; write it out shorter"
            )
        return (
            (key, value)
            for key, value in self._merged(source, path)
            if isinstance(key, yaml.ScalarNode)
        )

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if node.style is None and node.tag == _TAG + "str" and _YES_NO.fullmatch(node.value):
            self._document.yes_no.append(path)
        try:
            return _construct(node.tag.removeprefix(_TAG), node.value)
        except (ValueError, KeyError):
            self._problem(
                node,
                path,
                f"cannot be read as {node.tag}; use plain text, numbers, true, false or null",
            )
            return None

    def _has_tag(self, node: yaml.Node, path: KeyPath, name: str) -> bool:
        if node.tag != _TAG + name:
            self._problem(node, path, f"the tag {node.tag} is not supported; leave it out")
        return True

    def _problem(self, node: yaml.Node, path: KeyPath, text: str) -> None:
        self._document.problems.append(Problem(_mark(node), path, text))


def _construct(tag: str, text: str) -> Any:
    if tag == "str":
        text.encode()  # half of a surrogate pair is a ValueError
        return text
    if tag == "null":
        return None
    if tag == "bool":
        return {"true": True, "false": False}[text.lower()]
    if tag == "int":
        plain = text.replace("_", "")
        return int(plain, 0) if plain.startswith(("0o", "0x")) else int(plain)
    if tag == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()).replace("_", ""))
    raise KeyError(tag)


def _mark(node: yaml.Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)


def _syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        mark = Position(before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1)
        return Problem(
            mark,
            (),
            f"the character {chr(int(error.character))!r} is not allowed in YAML; remove it",
        )
    assert isinstance(error, yaml.MarkedYAMLError)
    mark_at = error.problem_mark or error.context_mark
    mark = Position(1, 1) if mark_at is None else Position(mark_at.line + 1, mark_at.column + 1)
    said = ", ".join(part for part in (error.context, error.problem) if part)
    return Problem(mark, (), f"not YAML: {said}; {_remedy(said, text, mark)}")


def _remedy(said: str, text: str, mark: Position) -> str:
    line = text.splitlines()[mark.line - 1] if mark.line <= len(text.splitlines()) else ""
    if "\\t" in said or "\t" in line[: mark.column]:
        return "indent with spaces, not tabs"
    if "flow" in said:
        return "close every [ and {, and put a comma between their values"
    if "alias" in said:
        return "put a text that begins with * in quotes, or define the anchor (&name) before its alias (*name)"
    if "single document" in said:
        return "a job file is one document; remove the `---` between them"
    if "mapping values" in said:
        return "put text that holds ': ' in quotes, or mend the indentation"
    if "scanning a quoted" in said or "quoted scalar" in said:
        return "close the quote"
    return "mend the indentation or quote the text there"
