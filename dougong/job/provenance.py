"""What a user wrote, value by value, with the place of each: a line of the job file or an
override."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dougong.job.yaml_locations import KeyPath, YamlDocument

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
        for path, mark in document.values.items():
            key = document.keys.get(path, mark)
            at_key, at_value = (f"{self.file}:{m.line}:{m.column}" for m in (key, mark))
            self.places[path] = Location(
                (0, mark.line, mark.column), at_key, at_value, f"{self.file}:{mark.line}"
            )
        for problem in document.problems:
            place = f"{self.file}:{problem.mark.line}:{problem.mark.column}"
            order = (0, problem.mark.line, problem.mark.column)
            self.mistakes.append(Mistake(order, place, problem.path, problem.text))

    def override(self, path: KeyPath, document: YamlDocument, said: str) -> None:
        """Note that the value at `path` now comes from the command line's `-o SAID`."""
        self.places = {old: place for old, place in self.places.items() if old[: len(path)] != path}
        self.yes_no = [old for old in self.yes_no if old[: len(path)] != path] + [
            path + p for p in document.yes_no
        ]
        self.overridden.append(path)
        place = self._said(said)
        self.places.update({path + inner: place for inner in document.values or [()]})
        for length in range(1, len(path)):  # sections that the override has made
            self.places.setdefault(path[:length], place)

    def refuse(self, said: str, path: KeyPath, text: str) -> None:
        """A mistake in the override itself."""
        place = self._said(said)
        self.mistakes.append(Mistake(place.order, place.key, path, text))

    def blame(self, path: KeyPath, text: str) -> None:
        """A mistake at `path`: at the key when the value is not what is wrong; at the parent when
        nothing is there.

        Nothing is said twice: where the reading of the value has failed already, its absence is no
        second mistake.
        """
        if any(mistake.path == path for mistake in self.mistakes):
            return
        place = self._nearest(path)
        at_key = path in self.places and text.startswith("unknown key")
        self.mistakes.append(Mistake(place.order, place.key if at_key else place.value, path, text))

    def origin(self, path: KeyPath) -> str:
        """`default`, or where the value at `path` was written."""
        place = self.places.get(path)
        return "default" if place is None else place.origin

    def is_override(self, path: KeyPath) -> bool:
        return path in self.places and self.places[path].order[0] > 0

    def _said(self, said: str) -> Location:
        text = f"-o {printable(said)}"
        return Location((1 + len(self.overridden), 0, 0), text, text, text)

    def _nearest(self, path: KeyPath) -> Location:
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return Location((0, 1, 1), f"{self.file}:1:1", f"{self.file}:1:1", self.file)


def dotted(path: KeyPath) -> str:
    """`islands.0.workers`."""
    return ".".join(printable(str(part)) for part in path)


def printable(text: str) -> str:
    """The text, or its escaped form when it holds what would upset a terminal."""
    return text if text.isprintable() else repr(text)[1:-1]
