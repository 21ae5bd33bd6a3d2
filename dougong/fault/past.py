"""The failures that a run has had, and which of them it ends of when it cannot recover. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dougong.fault.policy import DETERMINISTIC, PastFailure


def cause_of_end(history: Sequence[PastFailure]) -> PastFailure:
    """The first failure since the last step that was completed; the last one where that is a
    mistake, which ends a run whatever went before. `history`: oldest first, at least one."""
    cause = history[-1]
    if cause.diagnosis.kind in DETERMINISTIC:
        return cause
    for earlier in reversed(history[:-1]):
        if cause.has_stepped:
            break  # the run had got over all the earlier ones
        cause = earlier
    return cause


def words_of_end(history: Sequence[PastFailure]) -> str:
    """The cause, that there were more failures than it, and the last of them unless it is the
    same."""
    cause = cause_of_end(history)
    return f"{cause.diagnosis}{_other_failures(history, cause)}"


def _other_failures(history: Sequence[PastFailure], cause: PastFailure) -> str:
    """That there were more failures than the cause, and the last of them unless it is the same."""
    count, last = len(history), history[-1]
    if count == 1:
        return ""
    if cause is last:
        return f" (the last of {count} failures)"
    same = (last.diagnosis.culprit, last.diagnosis.cause)
    if same == (cause.diagnosis.culprit, cause.diagnosis.cause):
        return f" ({count} failures; the last was the same)"
    place = "first" if cause is history[0] else f"number {history.index(cause) + 1}"
    return f" ({place} of {count} failures; the last: {last.diagnosis})"
