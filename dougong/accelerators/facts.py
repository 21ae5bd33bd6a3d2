"""What a kind of device is, as data: how far it has been tried, its variables, its peak rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Standing = Literal["run here", "checked without hardware", "from documents"]
"""How far the project has tried a kind of device: its jobs have run on one; its code runs against
simulated devices or the vendor's own package; its row is what public documents say."""


@dataclass(frozen=True)
class Default:
    """A variable of a worker's environment that a user may set otherwise.

    `aliases`: other names of the same thing, older ones say; where one is set, it stands.
    """

    variable: str
    value: str
    aliases: tuple[str, ...] = ()

    def applies(self, environment: Mapping[str, str]) -> bool:
        """Whether nobody has said anything of it there."""
        return not {self.variable, *self.aliases} & set(environment)


@dataclass(frozen=True)
class Refused:
    """A variable's value that breaks what a job promises of its bits, and how."""

    variable: str
    value: str
    reason: str


@dataclass(frozen=True)
class PeakRates:
    """What a model of device computes at most, in FLOP/s of dense products.

    `model`: part of the name that the device goes by. `per_s`: by dtype, with sums in float32;
    float32 is float32 throughout, without shortened inputs. `source`: where the vendor says so.
    """

    model: str
    per_s: Mapping[str, float]
    source: str
