"""Whether what a run has trained is saved, by its events. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dougong.records.events import CheckpointCommitted, CheckpointFailed, Event, RunCreated


def unsaved_words(events: Sequence[Event]) -> str:
    """That the newest checkpoint was not committed, and why; empty where it was, or a resume has
    begun since, which goes on from one that is."""
    for event in reversed(events):
        match event:
            case CheckpointFailed():
                return event.standing
            case CheckpointCommitted() | RunCreated():
                break
    return ""
