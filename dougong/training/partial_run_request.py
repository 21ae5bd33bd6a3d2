"""What workers are asked to do of a run when they are not asked to do it whole; it lies in the run's directory, and so
does what they bring back.

RUN/errand.json   RUN/trace/<worker>.json
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dougong.parallel.trace.trace_key import Place

FILE = "errand.json"
TRACES = "trace"


@dataclass(frozen=True)
class Errand:
    """Run up to and with step `until`; trace one step (None: no step); `save` a checkpoint at the end."""

    until: int
    trace: int | None = None
    save: bool = False

    def write(self, run_dir: Path) -> None:
        (run_dir / FILE).write_text(json.dumps(dataclasses.asdict(self)))

    @staticmethod
    def load(run_dir: Path) -> Errand:
        return Errand(**json.loads((run_dir / FILE).read_text()))


@dataclass(frozen=True)
class Trace:
    """Checksums of a step by place. `sites`: the names of the model's experts modules, in the order of their calls."""

    sites: tuple[str, ...]
    found: dict[Place, int]

    def write(self, run_dir: Path, worker: str) -> None:
        """Leave one worker's part."""
        file = run_dir / TRACES / f"{worker}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        places = [[*place.to_list(), checksum] for place, checksum in self.found.items()]
        file.write_text(json.dumps({"sites": self.sites, "places": places}))

    @staticmethod
    def read(run_dir: Path) -> Trace:
        """All workers' parts."""
        sites: Sequence[str] = ()
        found: dict[Place, int] = {}
        for file in sorted((run_dir / TRACES).rglob("*.json")):
            part = json.loads(file.read_text())
            sites = part["sites"]
            found |= {Place(*place): checksum for *place, checksum in part["places"]}
        return Trace(tuple(sites), found)
