"""What a user wrote, value by value, with the place of each: a line of the job file or an
override."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dougong.job.yaml.locations import KeyPath, Position, YamlDocument

Order = tuple[int, int, int]


@dataclass(frozen=True)
class Mistake:
    """One line of the answer to a wrong file."""

    order: Order
    place: str
    path: KeyPath
    text: str

    def __str__(self) -> str:
        where = f"{self.place}: {dotted(self.path)}" if self.path else self.place
        return f"{where}: {self.text}"


@dataclass(frozen=True)
class Location:
    """Where a value was written. `order` sorts mistakes; `origin` is what `dougong check --print`
    says."""

    order: Order
    key: str
    value: str
    origin: str


@dataclass
class Source:
    """The values as written (`data`) and their places. Built up by the file and then by each
    override."""

    file: str
    data: Any = None
    places: dict[KeyPath, Location] = field(default_factory=dict)
    overridden: list[KeyPath] = field(default_factory=list)
    yes_no: list[KeyPath] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)

    def take(self, document: YamlDocument) -> None:
        """Start from a document read from the file."""
        self.data, self.yes_no = document.data, list(document.yes_no)
        for path, value in document.values.items():
            self.places[path] = self._of_file(document.keys.get(path, value), value)
        for problem in document.problems:
            place = self._of_file(problem.mark, problem.mark)
            self.mistakes.append(Mistake(place.order, place.value, problem.path, problem.text))

    def _of_file(self, key: Position, value: Position) -> Location:
        order = (0, value.line, value.column)
        return Location(order, self._at(key), self._at(value), f"{self.file}:{value.line}")

    def _at(self, position: Position) -> str:
        return f"{self.file}:{position.line}:{position.column}"

    def override(self, path: KeyPath, document: YamlDocument, override: str) -> None:
        """Note that the value at `path` now comes from the command line's `-o OVERRIDE`."""
        self._forget(path)
        self.overridden.append(path)
        self.yes_no += [path + inner for inner in document.yes_no]
        place = self._of_override(override)
        for inner in document.values or [()]:
            self.places[path + inner] = place
        # Sections on the way that the override has made.
        for length in range(1, len(path)):
            self.places.setdefault(path[:length], place)

    def _forget(self, path: KeyPath) -> None:
        """What was said of the value at `path`, and of all inside it, no longer holds."""
        depth = len(path)
        self.places = {old: place for old, place in self.places.items() if old[:depth] != path}
        self.yes_no = [old for old in self.yes_no if old[:depth] != path]

    def refuse(self, override: str, path: KeyPath, text: str) -> None:
        """A mistake in the override itself."""
        place = self._of_override(override)
        self.mistakes.append(Mistake(place.order, place.key, path, text))

    def blame(self, path: KeyPath, text: str, is_key: bool = False) -> None:
        """A mistake at `path`: in its value, or in the key itself (`is_key`); at the parent when
        nothing is there.

        Nothing is reported twice: where the reading of the value has failed already, its absence is
        no second mistake.
        """
        if any(mistake.path == path for mistake in self.mistakes):
            return
        place = self._nearest(path)
        where = place.key if is_key and path in self.places else place.value
        self.mistakes.append(Mistake(place.order, where, path, text))

    def origin(self, path: KeyPath) -> str:
        """`default`, or where the value at `path` was written."""
        place = self.places.get(path)
        return "default" if place is None else place.origin

    def is_override(self, path: KeyPath) -> bool:
        return path in self.places and self.places[path].order[0] > 0

    def _of_override(self, override: str) -> Location:
        text = f"-o {printable(override)}"
        return Location((1 + len(self.overridden), 0, 0), text, text, text)

    def _nearest(self, path: KeyPath) -> Location:
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return Location((0, 1, 1), f"{self.file}:1:1", f"{self.file}:1:1", self.file)


def dotted(path: KeyPath) -> str:
    """The parts of a key's path with dots between them."""
    return ".".join(printable(str(part)) for part in path)


def printable(text: str) -> str:
    """The text, or its escaped form when it holds what would upset a terminal."""
    return text if text.isprintable() else repr(text)[1:-1]
