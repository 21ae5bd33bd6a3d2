"""What all events of a run have."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, field_validator


class RunEvent(BaseModel):
    """What all events have. `monotonic_s`: seconds since the boot of the controller's machine;
    `wall`: ISO 8601, UTC; `fence`: the number of its controller. The three are set when the event
    is written.

    A field that this release does not know is left out when a line is read.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, ser_json_inf_nan="constants")

    kind: str
    generation: int
    fence: int = 0
    monotonic_s: float = 0.0
    wall: str = ""

    @field_validator("wall")
    @classmethod
    def _is_a_time(cls, wall: str) -> str:
        """Empty until the event is written."""
        try:
            if wall:
                read_wall(wall)
        except ValueError:
            raise ValueError("must be a time such as 2025-11-22T09:30:00.000Z") from None
        return wall


def read_wall(wall: str) -> datetime:
    """The time that an event's `wall` names. ValueError when it names none."""
    return datetime.fromisoformat(wall.replace("Z", "+00:00"))  # Python 3.10 reads no Z
