"""`islands.*.emulate`: devices and links that are pretended to be slow, for measuring schedules."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictFloat

from dougong.job.section import AboveZero, Section, physical


class Link(Section):
    """The wire of an emulated worker."""

    bandwidth_mb_s: AboveZero | None = physical(
        None, "10^6 bytes a second, each way; null: as fast as it is"
    )
    latency_ms: Annotated[StrictFloat, Field(ge=0)] = physical(0.0, "added to every message")


class Emulate(Section):
    """An island of pretended devices: each worker takes this long, asleep, around the same real
    arithmetic."""

    attention_ms: AboveZero = physical(
        ...,
        "of a lane's micro-batch from one experts call to the next, forward; backward in "
        "proportion",
    )
    expert_ms_per_1k_tokens: AboveZero = physical(
        ..., "of a thousand rows through experts, forward; a token at one of its experts is a row"
    )
    link: Link = physical(Link(), "how long messages from and to its workers take")
