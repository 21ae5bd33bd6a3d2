"""Stored checkpoints are damaged in every way that `tests/checkpoint/corruption.py` knows: how many changed ones are
accepted without a word. Beside ours: torch.distributed.checkpoint, under the kinds that know nothing of a format.

    python benchmarks/corruption.py [--number 10000] [--peer 690] [--seconds 3600] [--seed 0] [--record FILE]

Every damage is a function of the seed and its number, done to a copy of three checkpoints by a process that is killed
when it does not answer (30 s, the peer's 10 s). `--record` keeps one line a damage: a second run by the same software
goes on behind them. It ends early, and says so, when `--seconds` are over. Exit status 1 where one of ours was
accepted, not found, or hung.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from benchmarks.kept import KeptLines
from tests.checkpoint.attack import (
    DEADLINE_S,
    STEPS,
    Attack,
    Outcome,
    Repository,
    contents_of,
    is_changed,
    make_repository,
    room,
    watched,
)
from tests.checkpoint.corruption import KINDS, OF_ANY_FORMAT, Scene

Run = Callable[[int], Outcome]
PEER_S = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=10_000, help="damages of our checkpoints")
    parser.add_argument("--peer", type=int, default=690, help="damages of torch.distributed.checkpoint's")
    parser.add_argument("--seconds", type=float, default=3600.0, help="when to end, whatever was reached")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="a line of JSON a damage; numbers that it has are not done again")
    asked = parser.parse_args()
    until = time.monotonic() + asked.seconds

    with tempfile.TemporaryDirectory() as folder, room() as place:
        repository = make_repository(Path(folder) / "ours" / "checkpoints")
        peer = make_peer(Path(folder) / "dcp", repository)
        kinds = {name: KINDS[name] for name in OF_ANY_FORMAT}
        record = Record(asked.record and KeptLines(asked.record), asked.seed)
        runs: list[tuple[str, Run, int]] = [
            ("torch.distributed.checkpoint", PeerAttack(peer, place, asked.seed).run, asked.peer),
            ("dougong, the same kinds", Attack(repository, kinds, place, asked.seed).run, asked.peer),
            ("dougong", Attack(repository, KINDS, place, asked.seed).run, asked.number),
        ]
        results = {name: record.fill(name, run, range(number), until) for name, run, number in runs}

    if record.lines is not None:
        record.lines.tell_others()
    for name, _, number in runs:
        tell(name, results[name], number)
    ours = [outcome for name in results if name.startswith("dougong") for outcome in results[name]]
    return int(any(outcome.silent or outcome.wrong for outcome in ours))


@dataclass
class Record:
    """What was done before, by the file's lines, and what is done now."""

    lines: KeptLines | None
    seed: int

    def fill(self, name: str, run: Run, numbers: Sequence[int], until: float) -> list[Outcome]:
        """The outcomes of these numbers, as far as the time goes."""
        known = {outcome.number: outcome for outcome in self._read(name)}
        found = [known[number] for number in numbers if number in known]
        deadline_s = PEER_S if name.startswith("torch") else DEADLINE_S
        for outcome in watched(run, [number for number in numbers if number not in known], deadline_s):
            found.append(outcome)
            self._keep(name, outcome)
            if time.monotonic() > until:
                break
        return found

    def _read(self, name: str) -> Iterator[Outcome]:
        for raw in self.lines.read() if self.lines is not None else ():
            if (raw.pop("of"), raw.pop("seed")) == (name, self.seed):
                yield Outcome(**{key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()})

    def _keep(self, name: str, outcome: Outcome) -> None:
        if self.lines is not None:
            self.lines.add({"of": name, "seed": self.seed, **asdict(outcome)})


def tell(name: str, outcomes: Sequence[Outcome], asked: int) -> None:
    effective = [outcome for outcome in outcomes if outcome.changed]
    silent = [outcome for outcome in effective if outcome.silent]
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    reached = "" if len(outcomes) == asked else f" of {asked} (out of time)"
    share = len(silent) / max(1, len(effective))
    print(f"{name}: {len(outcomes)} damages{reached}, {len(effective)} changed a checkpoint")
    print(f"    accepted without a word: {len(silent)} ({share:.1%})")
    print(f"    something else was wrong (a hang, a valid one not found, an unexpected error): {len(wrong)}")
    times = sorted(1000 * outcome.seconds for outcome in outcomes if outcome.seconds)
    if times:
        low, high = times[len(times) // 20], times[-1 - len(times) // 20]
        print(f"    asked of all three: {statistics.median(times):.1f} ms (median; 5 % {low:.1f}, 95 % {high:.1f})")
    changed, by_kind = Counter(o.kind for o in effective), Counter(o.kind for o in silent)
    for kind, count in sorted(by_kind.items(), key=lambda item: -item[1] / changed[item[0]]):
        print(f"        {kind}: {count} of {changed[kind]}")
    for outcome in wrong[:5]:
        print(f"        number {outcome.number} ({outcome.kind}): {'; '.join(outcome.wrong)}")


@dataclass(frozen=True)
class Peer:
    """The same tensors, saved three times by torch.distributed.checkpoint."""

    root: Path
    contents: dict[str, dict[str, object]]
    states: dict[str, dict[str, Tensor]]


def make_peer(root: Path, repository: Repository) -> Peer:
    states = {}
    for name, tensors in repository.tensors.items():
        flat = {}
        for (group, key), data in tensors.items():
            flat[f"{group}/{key}"] = torch.frombuffer(bytearray(data), dtype=torch.float32)
        states[name] = flat
        dcp.save(flat, checkpoint_id=root / name, no_dist=True)

    return Peer(root, {name: contents_of(root / name) for name in states}, states)


@dataclass(frozen=True)
class PeerAttack:
    """Damages of the peer's checkpoints. It has no way to verify one or to find the newest valid one; so what is asked
    is whether a load of the damaged one gives other values, and no error."""

    peer: Peer
    room: Path
    seed: int

    def run(self, number: int) -> Outcome:
        logging.disable()  # it writes a trace for each of its two tries
        kind = OF_ANY_FORMAT[number % len(OF_ANY_FORMAT)]
        scene = self._scene(number)
        KINDS[kind](scene)
        begun = time.perf_counter()
        places = sorted(path for path in scene.root.iterdir() if path.is_dir())
        changed = [path for path in places if is_changed(self.peer.contents.get(path.name), path, follows=True)]
        silent = [f"load: {path.name}" for path in changed if self._loads_wrongly(path)]
        seconds = time.perf_counter() - begun
        shutil.rmtree(self.room)
        return Outcome(kind, number, tuple(path.name for path in changed), tuple(silent), seconds=seconds)

    def _scene(self, number: int) -> Scene:
        if self.room.exists():
            shutil.rmtree(self.room)
        root = Path(shutil.copytree(self.peer.root, self.room / "checkpoints"))
        chance = Random(f"{self.seed}/{number}")
        victim, other = chance.sample([f"step-{step:06d}" for step in STEPS], 2)
        return Scene(root, root / victim, root / other, chance, manifest=".metadata")

    def _loads_wrongly(self, path: Path) -> bool:
        original = self.peer.states.get(path.name)
        into = {key: torch.zeros_like(value) for key, value in next(iter(self.peer.states.values())).items()}
        try:
            dcp.load(into, checkpoint_id=path, no_dist=True)
        except BaseException:
            return False
        if original is None:
            return True
        return any(into[key].numpy().tobytes() != value.numpy().tobytes() for key, value in original.items())


if __name__ == "__main__":
    sys.exit(main())
