"""What workers are asked to do of a run when they are not asked to do it whole, and what they bring
back. Both lie in the run's directory. Imports no torch.

RUN/partial_run.json   RUN/trace/<worker>.json
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from dougong.parallel.trace.trace_key import TraceKey

FILE = "partial_run.json"
TRACES = "trace"


@dataclass(frozen=True)
class PartialRun:
    """Run up to and with step `until`; trace one step (None: no step); `save` a checkpoint at the
    end."""

    until: int
    trace: int | None = None
    save: bool = False

    def write(self, run_dir: Path) -> None:
        """Leave it for the workers."""
        (run_dir / FILE).write_text(json.dumps(dataclasses.asdict(self)))

    @staticmethod
    def load(run_dir: Path) -> PartialRun:
        """What `write` left."""
        return PartialRun(**json.loads((run_dir / FILE).read_text()))


@dataclass(frozen=True)
class StepTrace:
    """Checksums of a step by place. `sites`: the names of the model's experts modules, in the order
    of their calls."""

    sites: tuple[str, ...]
    found: dict[TraceKey, int]

    def write(self, run_dir: Path, worker: str) -> None:
        """Leave one worker's part."""
        file = run_dir / TRACES / f"{worker}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        places = [[*place.to_list(), checksum] for place, checksum in self.found.items()]
        file.write_text(json.dumps({"sites": self.sites, "places": places}))

    @staticmethod
    def read(run_dir: Path) -> StepTrace:
        """All workers' parts; empty where nothing was traced."""
        sites: tuple[str, ...] = ()
        found: dict[TraceKey, int] = {}
        for file in sorted((run_dir / TRACES).rglob("*.json")):
            part = json.loads(file.read_text())
            sites = tuple(part["sites"])
            for *place, checksum in part["places"]:
                found[TraceKey(*place)] = checksum
        return StepTrace(sites, found)
