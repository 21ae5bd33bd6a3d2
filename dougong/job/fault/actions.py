"""`fault.actions`: what is done about each class of failure, as the table of `fault.policy` has it
unless the job says otherwise."""

from __future__ import annotations

from typing import Literal

from dougong.job.section import Section, physical

Action = Literal["restart", "roll_back", "wait_for_storage", "quarantine", "fail"]
"""restart: workers that failed are begun anew, on other nodes where theirs are lost, and all go on
from the newest step that is held. roll_back: the same, from the newest checkpoint: what memory
holds is not trusted. wait_for_storage: restart, after a pause that grows from one try to the next.
quarantine: restart without the device. fail: the run ends, with the diagnosis."""

Usual = Literal["restart", "roll_back", "fail"]


class Actions(Section):
    """Rows of the table. What is wrong with the job itself always ends the run; steps that are not
    finite have `fault.non_finite`."""

    crash: Usual = physical("restart", "a worker's process, or an agent's, has ended")
    out_of_memory: Usual = physical("restart", "a device, or the machine, has no memory left")
    exception: Usual = physical("restart", "a worker has raised an error")
    hang: Usual = physical("restart", "a worker, or an agent, stands still")
    node_lost: Usual = physical("restart", "a machine is gone")
    partition: Usual = physical("restart", "machines do not hear each other")
    slow: Usual = physical("restart", "a worker holds up all others for long")
    device: Literal["quarantine", "restart", "roll_back", "fail"] = physical(
        "quarantine",
        "a device has told of a fault; it is used no more where nobody can use it, or when it has "
        "failed `quarantine.after` times, and until then this is a restart",
    )
    corruption: Usual = physical(
        "restart",
        "numbers have changed that nobody has computed, or were computed wrongly; found before the "
        "step is committed, so that the step before, whose copies are verified, holds none of them",
    )
    storage: Literal["wait_for_storage", "restart", "roll_back", "fail"] = physical(
        "wait_for_storage",
        "storage has refused a worker what it cannot do without; tried again for "
        "`deadlines.storage_wait_s`",
    )
    preemption: Usual = physical("restart", "somebody wants the machine back")

    def of(self, failure: str) -> Action | None:
        """The row of a class; None where the run always ends."""
        return getattr(self, failure) if failure in type(self).model_fields else None
