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
                return commit_words(event)
            case CheckpointCommitted() | RunCreated():
                break
    return ""


def commit_words(failed: CheckpointFailed) -> str:
    """What is so from a commit that failed until one that does not."""
    since = f"since step {failed.newest}" if failed.newest else "yet"
    times = f" ({failed.in_a_row} in a row failed)" if failed.in_a_row > 1 else ""
    return f"no checkpoint {since}{times}: {failed.reason}"
