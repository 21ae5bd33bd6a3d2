"""How fast the workers of an island are: the keys of `islands.*.speed`."""

from __future__ import annotations

from dougong.job.section import AboveZero, Section, physical


class Rates(Section):
    """What one worker of an island does in a unit of time; `dougong calibrate` measures it. The
    unit is the same on all islands."""

    attention: AboveZero = physical(
        1.0, "micro-batches of one lane through one layer without its experts"
    )
    experts: AboveZero = physical(
        1.0, "thousands of rows through experts; a token at one of its experts is a row"
    )
