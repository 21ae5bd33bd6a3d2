"""An error on its way from one process to another: ours keep their class, any other becomes a
LaunchError that begins with its name."""

from __future__ import annotations

from dataclasses import dataclass

import dougong.errors as family
from dougong.errors import DougongError, LaunchError, NoRoomError


def reason_words(error: BaseException, named: bool = False) -> str:
    """What an error of another's code says, on one line, for a sentence of ours; with `named`,
    behind its class."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if named else text


@dataclass(frozen=True)
class ErrorWords:
    """`name`: its class, or the nearest of the family above it; `is_held`: as in `NoRoomError`."""

    name: str
    text: str
    is_held: bool = False

    @staticmethod
    def of(error: BaseException) -> ErrorWords:
        """What is told of an error."""
        if not isinstance(error, DougongError):
            return ErrorWords(LaunchError.__name__, f"{type(error).__name__}: {error}")
        names = [
            kind.__name__ for kind in type(error).__mro__ if kind.__module__ == family.__name__
        ]
        is_held = isinstance(error, NoRoomError) and error.is_held
        return ErrorWords(names[0], str(error), is_held)

    def error(self) -> DougongError:
        """The error again."""
        if self.name == NoRoomError.__name__:
            return NoRoomError(self.text, self.is_held)
        kind = getattr(family, self.name, LaunchError)
        made = kind(self.text)
        assert isinstance(made, DougongError), f"{self.name} is no class of the family"
        return made
