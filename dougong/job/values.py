"""Plain values of the job file: names, counts, seconds, and what text must look like."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StrictFloat, StrictInt, StrictStr
from pydantic_core import PydanticCustomError

from dougong.accelerators.registry import accelerator_names, is_accelerator
from dougong.deadlines import LEAST_SILENCE_S, MOST_S
from dougong.job.section import TEXT

NAME = r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$"
WORKER = r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}/(0|[1-9][0-9]*)$"
PATTERNS = {
    TEXT: "text that is not empty",
    NAME: "letters, digits and '-', 63 at most, and begin with a letter or digit",
    WORKER: "a worker's name, ISLAND/NUMBER such as east/1",
}
UNKNOWN_ACCELERATOR = "unknown_accelerator"
"""Pydantic's type of the error for a kind of device that nobody offers."""


def _known_accelerator(name: str) -> str:
    """The name, if dougong or an installed package has such an accelerator."""
    if is_accelerator(name):
        return name
    *others, last = [f"'{option}'" for option in accelerator_names()]
    raise PydanticCustomError(
        UNKNOWN_ACCELERATOR, "an accelerator", {"expected": f"{', '.join(others)} or {last}"}
    )


def _whole(value: Any) -> Any:
    """YAML reads 6.0 and 1e3 as numbers with a decimal point; they are whole all the same."""
    return int(value) if type(value) is float and value.is_integer() else value


Name = Annotated[StrictStr, Field(pattern=NAME)]
WorkerName = Annotated[StrictStr, Field(pattern=WORKER)]
AcceleratorName = Annotated[StrictStr, AfterValidator(_known_accelerator)]
WHOLE = BeforeValidator(_whole)
"""Last of what annotates a whole number: the bounds before it are then the JSON Schema's too."""
Positive = Annotated[StrictInt, Field(gt=0, lt=2**31), WHOLE]
Count = Annotated[StrictInt, Field(ge=0, lt=2**31), WHOLE]
AboveZero = Annotated[StrictFloat, Field(gt=0)]
Seconds = Annotated[StrictFloat, Field(gt=0, le=MOST_S)]
Silence = Annotated[StrictFloat, Field(ge=LEAST_SILENCE_S, le=MOST_S)]
