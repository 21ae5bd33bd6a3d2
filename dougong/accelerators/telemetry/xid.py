"""NVIDIA's Xid codes: what each says, and what follows from it.

By the immediate action that NVIDIA's catalogue names for a code (docs.nvidia.com, "Xid Errors",
"Analyzing Xid Errors with the Xid Catalog"): restart the program, reset the GPU, restart the
machine, nothing. Where it sends the reader through a further look, the graver end is taken. The
meanings are in our own words.
"""

from __future__ import annotations

from collections.abc import Mapping

from dougong.accelerators.telemetry.reading import Consequence, DeviceFault, fault_of

_PROGRAM: Mapping[int, str] = {
    8: "a kernel did not end in time",
    13: "an instruction of a kernel failed, as a rule an index out of range",
    31: "a kernel touched memory that is not its own",
    32: "corrupted commands came from the program",
    43: "the driver has ended a program that did wrong",
    45: "the driver has cleaned up after a program that ended",
    68: "the video engine failed at a program's commands",
    69: "the graphics engine failed at a program's commands",
}
_WORKER: Mapping[int, str] = {
    94: "an uncorrectable error of its memory, kept to the program that met it",
    137: "a peer's GPU faulted over NVLink",
}
_RESET: Mapping[int, str] = {
    46: "the GPU has stopped",
    48: "an uncorrectable error of its memory (double bit)",
    62: "its power controller has stopped",
    64: "a row of its memory could not be replaced",
    74: "NVLink has failed",
    95: "an uncorrectable error of its memory, which may have reached any program",
    109: "a switch between programs did not end in time",
    110: "a security fault",
    119: "its system processor (GSP) does not answer",
    120: "its system processor (GSP) has failed",
    136: "NVLink could not be brought up",
    140: "an unrecovered error of its memory",
    143: "the GPU could not be brought up",
    158: "the GPU did not answer in time",
}
_GIVE_UP: Mapping[int, str] = {
    79: "the GPU has fallen off the bus",
    157: "a part that failed could not be taken out of use",
}
_NOTE: Mapping[int, str] = {
    63: "a row of its memory will be replaced at its next reset",
    92: "many corrected errors of its memory",
    121: "a corrected error of its link to the processor",
    156: "a part that failed has been taken out of use",
}
_BY_CONSEQUENCE: tuple[tuple[Consequence, Mapping[int, str]], ...] = (
    ("note", _NOTE),
    ("program", _PROGRAM),
    ("worker", _WORKER),
    ("reset", _RESET),
    ("give_up", _GIVE_UP),
)


def _catalogue() -> Mapping[int, DeviceFault]:
    found = {}
    for consequence, meanings in _BY_CONSEQUENCE:
        for number, meaning in meanings.items():
            found[number] = DeviceFault(f"Xid {number}", meaning, consequence)
    return found


CATALOGUE: Mapping[int, DeviceFault] = _catalogue()


def xid(number: int) -> DeviceFault:
    """What this code says; of one that is not in the list, its number."""
    return fault_of(number, "Xid", CATALOGUE)
