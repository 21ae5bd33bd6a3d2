"""`fault.quarantine`: devices that a run uses no more."""

from __future__ import annotations

from dougong.job.section import Positive, Section, Text, physical


class QuarantineKeys(Section):
    """When a device is not used again in this run, and which of them are used all the same."""

    after: Positive = physical(
        2,
        "failures of one device after which it is not used again in this run; one that nobody can "
        "use before it is reset or replaced never is",
    )
    lift: tuple[Text, ...] = physical(
        (),
        "keys of devices (`dougong status`) that have been mended, and are used again after a "
        "resume",
    )
