"""Events of storage: it refuses what a run writes, or does not answer; and it answers again."""

from __future__ import annotations

from typing import Literal

from dougong.records.event.base import RunEvent
from dougong.storage.trouble import Healed, News


class StorageTroubled(RunEvent):
    """Something cannot be written, and training goes on. `what`: in words; `worker` or `agent`: who
    writes it, both empty for the controller; `kept` and `dropped`: pieces by kind, at that time."""

    kind: Literal["storage_trouble"] = "storage_trouble"
    what: str
    reason: str
    worker: str = ""
    agent: str = ""
    kept: dict[str, int] = {}
    dropped: dict[str, int] = {}


class StorageAnswered(RunEvent):
    """It can be written again, after so many seconds. `dropped`: what is lost, by kind."""

    kind: Literal["storage_answers"] = "storage_answers"
    what: str
    seconds: float
    worker: str = ""
    agent: str = ""
    dropped: dict[str, int] = {}


def storage_event(
    generation: int, news: News, worker: str = "", agent: str = ""
) -> StorageTroubled | StorageAnswered:
    """The event of what a writer's watch has found."""
    dropped = dict(news.dropped)
    if isinstance(news, Healed):
        return StorageAnswered(
            generation=generation,
            what=news.what,
            seconds=round(news.seconds, 3),
            worker=worker,
            agent=agent,
            dropped=dropped,
        )
    return StorageTroubled(
        generation=generation,
        what=news.what,
        reason=news.reason,
        worker=worker,
        agent=agent,
        kept=dict(news.kept),
        dropped=dropped,
    )


class CheckpointsLeft(RunEvent):
    """Old checkpoints that were to be deleted are left where they lie. `reasons`: by name; it is
    tried again after each checkpoint."""

    kind: Literal["checkpoints_left"] = "checkpoints_left"
    reasons: dict[str, str]
