"""YAML read into plain values, with the line and column of every key and value, and every mistake
at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from dougong.job.yaml.scalars import TAG, Loader, construct, is_yes_no

KeyPath = tuple[str | int, ...]

MAX_DEPTH = 32
MAX_VALUES = 100_000
MAX_CHARACTERS = 1_000_000
MAX_KEY_CHARACTERS = 200

_TOO_MANY = f"more than {MAX_VALUES} values once aliases are followed; write it out shorter"
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


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


def read(text: str) -> YamlDocument:
    """Read one YAML document. Never raises for what the text holds: every mistake is in
    `problems`."""
    start = Position(1, 1)
    if len(text) > MAX_CHARACTERS:
        size = f"{len(text)} characters, more than {MAX_CHARACTERS}"
        return _unreadable(Problem(start, (), f"{size}; is this the right file?"))
    try:
        return _read_nodes(yaml.compose(text, Loader=Loader))
    except yaml.YAMLError as error:
        return _unreadable(_syntax_problem(error, text))
    except RecursionError:
        return _unreadable(Problem(start, (), f"{_TOO_DEEP}; flatten it"))
    except _RefusedError as error:
        return _unreadable(Problem(error.mark, (), str(error)))


def _read_nodes(root: yaml.Node | None) -> YamlDocument:
    document = YamlDocument()
    if root is not None:
        document.data = _NodeReader(document).value(root, ())
    return document


def _unreadable(problem: Problem) -> YamlDocument:
    return YamlDocument(problems=[problem], readable=False)


class _RefusedError(Exception):
    def __init__(self, text: str, mark: Position) -> None:
        super().__init__(text)
        self.mark = mark


class _NodeReader:
    """Walks the nodes of one document. An alias is read again at each place, so values are never
    shared."""

    def __init__(self, document: YamlDocument) -> None:
        self._document = document
        self._count = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        mark = _mark(node)
        self._count_one(mark)
        if len(path) > MAX_DEPTH:
            raise _RefusedError(f"{_TOO_DEEP}, or an alias inside itself; flatten it", mark)
        self._document.values[path] = mark
        if isinstance(node, yaml.MappingNode):
            self._check_tag(node, path, "map")
            return dict(self._items(node, path))
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, path, "seq")
            return [self._list_item(child, (*path, i)) for i, child in enumerate(node.value)]
        return self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None

    def _count_one(self, mark: Position) -> None:
        """A few aliases of aliases stand for more values than any memory holds."""
        self._count += 1
        if self._count > MAX_VALUES:
            raise _RefusedError(_TOO_MANY, mark)

    def _list_item(self, node: yaml.Node, path: KeyPath) -> Any:
        self._document.keys[path] = _mark(node)
        return self.value(node, path)

    def _items(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, Any]]:
        """(key, value) of a mapping; what is wrong with a key is noted, and its value left out."""
        lines: dict[str, int] = {}
        for key_node, value_node in self._merged(node, path):
            if not self._is_key(key_node, path):
                continue
            key, mark = key_node.value, _mark(key_node)
            if key in lines:
                text = f"given twice, first on line {lines[key]}; keep one"
                self._problem(key_node, (*path, key), text)
                continue
            lines[key] = mark.line
            self._document.keys[(*path, key)] = mark
            yield key, self.value(value_node, (*path, key))

    def _is_key(self, node: yaml.Node, path: KeyPath) -> bool:
        if not isinstance(node.value, str) or node.tag != TAG + "str":
            self._problem(node, path, "a key must be text; put it in quotes")
            return False
        if len(node.value) > MAX_KEY_CHARACTERS:
            text = f"a key has at most {MAX_KEY_CHARACTERS} characters; shorten it"
            self._problem(node, path, text)
            return False
        return True

    def _merged(
        self, node: yaml.MappingNode, path: KeyPath
    ) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """The pairs of a mapping; after its own, those of `<<: *alias` whose keys it does not
        have."""
        seen = set()
        for key, value in node.value:
            if key.tag == TAG + "merge":
                continue
            # Two equal keys of its own are both handed on: `_items` says that one is too many.
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
            yield key, value
        # YAML's merge key: of several sources the earlier wins, so each sees the keys of those
        # before it.
        for source in self._merge_sources(node, path):
            pairs = list(self._scalar_keys(source, path))
            fresh = [(key, value) for key, value in pairs if key.value not in seen]
            seen.update(key.value for key, _ in fresh)
            yield from fresh

    def _merge_sources(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[yaml.MappingNode]:
        """The mappings that the `<<` keys of a mapping name: one, or a list of them."""
        for key, value in node.value:
            if key.tag != TAG + "merge":
                continue
            sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for source in sources:
                if isinstance(source, yaml.MappingNode):
                    yield source
                else:
                    text = "`<<` merges mappings; name an anchored mapping, as in `<<: *base`"
                    self._problem(source, path, text)

    def _scalar_keys(
        self, source: yaml.MappingNode, path: KeyPath
    ) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """A merge source's pairs, its own merges followed."""
        self._count_one(Position(1, 1))
        for key, value in self._merged(source, path):
            if isinstance(key, yaml.ScalarNode):
                yield key, value

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if is_yes_no(node):
            self._document.yes_no.append(path)
        try:
            return construct(node.tag, node.value)
        except (ValueError, KeyError):
            advice = "use plain text, numbers, true, false or null"
            self._problem(node, path, f"cannot be read as {node.tag}; {advice}")
            return None

    def _check_tag(self, node: yaml.Node, path: KeyPath, name: str) -> None:
        if node.tag != TAG + name:
            self._problem(node, path, f"the tag {node.tag} is not supported; leave it out")

    def _problem(self, node: yaml.Node, path: KeyPath, text: str) -> None:
        self._document.problems.append(Problem(_mark(node), path, text))


def _mark(node: yaml.Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)


def _syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        return _bad_character(error, text)
    assert isinstance(error, yaml.MarkedYAMLError)
    mark_at = error.problem_mark or error.context_mark
    mark = Position(1, 1)
    if mark_at is not None:
        mark = Position(mark_at.line + 1, mark_at.column + 1)
    found = ", ".join(part for part in (error.context, error.problem) if part)
    return Problem(mark, (), f"not YAML: {found}; {_remedy(found, text, mark)}")


def _bad_character(error: yaml.reader.ReaderError, text: str) -> Problem:
    before = text[: error.position]
    line_start = before.rfind("\n") + 1
    mark = Position(before.count("\n") + 1, error.position - line_start + 1)
    character = chr(int(error.character))
    return Problem(mark, (), f"the character {character!r} is not allowed in YAML; remove it")


def _remedy(found: str, text: str, mark: Position) -> str:
    """What to do about a syntax error, by the words of PyYAML's message."""
    lines = text.splitlines()
    line = lines[mark.line - 1] if mark.line <= len(lines) else ""
    if "\\t" in found or "\t" in line[: mark.column]:
        return "indent with spaces, not tabs"
    for word, remedy in _REMEDIES.items():
        if word in found:
            return remedy
    return "mend the indentation or quote the text there"


# The first that fits is taken.
_REMEDIES = {
    "flow": "close every [ and {, and put a comma between their values",
    "alias": (
        "put a text that begins with * in quotes, or define the anchor (&name) before its alias "
        "(*name)"
    ),
    "single document": "a job file is one document; remove the `---` between them",
    "mapping values": "put text that holds ': ' in quotes, or mend the indentation",
    "scanning a quoted": "close the quote",
    "quoted scalar": "close the quote",
}
