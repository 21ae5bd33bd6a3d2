"""What was met in chats of which a person is told once, also when they come from the cache. Imports
no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dougong.data.token_cache import write_json
from dougong.remarks import Remarks

UNREAD = "unread "
"""Of a kind, before a key."""
SPLIT, THOUGHTS_LOST, CONTENT_CHANGED, HEADER = "split", "thoughts", "content", "header"
END_UNMARKED, EARLIER_UNMARKED = "end unmarked", "earlier unmarked"
_WARNINGS = {
    THOUGHTS_LOST: "{count} turns have thoughts ({example}) that the chat template does not "
    "render, so they are not learnt (the first: {place})",
    CONTENT_CHANGED: "of {count} turns the chat template does not render the content as it stands "
    "(the first: {place}, {example}); look whether what is learnt is what you mean",
    HEADER: "asked for an answer, the chat template adds nothing, so what it writes before one "
    "({example}) is learnt as if the model had to say it ({count} turns, the first: {place}); let "
    "it write that where add_generation_prompt is set, or put generation marks around the answer",
    END_UNMARKED: "what ends an answer ({example}) lies outside of the chat template's generation "
    "marks, so the model does not learn to stop; put {{% endgeneration %}} behind it",
    EARLIER_UNMARKED: "the chat template's generation marks leave out answers but the last one of "
    "a chat; those are not learnt",
}
_NOTES = {
    SPLIT: "{count} chats are several sequences each (the first: {place}), since the chat template "
    "renders a turn otherwise once others follow (as those do that leave out earlier thoughts): "
    "every turn is learnt once, after what it is rendered with when it is the last",
}


@dataclass
class _Sight:
    count: int
    place: str
    example: str


@dataclass
class Met:
    """By kind how often, where first, and an example."""

    found: dict[str, _Sight] = field(default_factory=dict)

    def add(self, kind: str, place: str, example: str = "") -> None:
        if kind in self.found:
            self.found[kind].count += 1
        else:
            self.found[kind] = _Sight(1, place, example)

    def write(self, path: Path, files: Sequence[Path]) -> None:
        """Places by the file's number, since the files may be called otherwise next time."""
        values = {
            kind: [one.count, numbered(one.place, files), one.example]
            for kind, one in self.found.items()
        }
        write_json(path, values)

    def remarks(self, name: str) -> Remarks:
        warnings, notes = list(self._unread()), []
        for kind, one in self.found.items():
            values = {"count": f"{one.count:,}", "place": one.place, "example": one.example}
            if kind in _WARNINGS:
                warnings.append(_WARNINGS[kind].format(**values))
            elif kind in _NOTES:
                notes.append(_NOTES[kind].format(**values))
        return Remarks(
            notes=tuple(f"{name}: {one}" for one in notes),
            warnings=tuple(f"{name}: {one}" for one in warnings),
        )

    def _unread(self) -> Iterator[str]:
        keys = [
            f"`{kind.removeprefix(UNREAD)}` ({one.count:,} rows, the first: {one.place})"
            for kind, one in self.found.items()
            if kind.startswith(UNREAD)
        ]
        if keys:
            yield (
                f"keys that neither dougong nor the chat template reads: {', '.join(keys)}; if one "
                "should say what is learnt, that is `weight`: 0 on a message"
            )


def read_met(path: Path, files: Sequence[Path]) -> Met:
    """What `write` has written; the same files may be called otherwise now."""
    values = json.loads(path.read_text())
    return Met(
        {
            kind: _Sight(count, named(place, files), example)
            for kind, (count, place, example) in values.items()
        }
    )


def numbered(place: str, files: Sequence[Path]) -> str:
    """A row's place with its file's number in place of its name."""
    for number, file in enumerate(files):
        if place.startswith(f"{file}: line "):
            return f"{number}{place[len(str(file)) :]}"
    return place


def named(place: str, files: Sequence[Path]) -> str:
    """The reverse of `numbered`."""
    number, colon, rest = place.partition(":")
    return f"{files[int(number)]}{colon}{rest}" if number.isdigit() else place
