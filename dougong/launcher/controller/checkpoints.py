"""The controller's hand in checkpoints: collects the workers' parts, commits, prunes, finds what to
resume from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dougong.checkpoint import repository
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.part import CheckpointPart
from dougong.control.worker_messages import PartDurable
from dougong.errors import CheckpointError
from dougong.fingerprint import judge
from dougong.job.schema import Job
from dougong.launcher.controller.inbox import Background
from dougong.parallel.plan import Inventory, Plan, experts_text
from dougong.planner.recipe import Recipe
from dougong.planner.resume import identity
from dougong.records.machine import package_versions

# AdamW's, until the registry of optimizer declarations says them.
STATE_KINDS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Committed:
    """A checkpoint that now exists."""

    step: int
    directory: Path
    num_bytes: int
    seconds: float
    removed: tuple[str, ...]
    invalid: tuple[str, ...]


@dataclass(frozen=True)
class FoundCheckpoint:
    """What a generation starts from (None: the beginning), and what was newer but not valid: (name,
    reason)."""

    directory: Path | None
    rejected: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()


@dataclass
class CheckpointManager:
    """One run's checkpoints. Commits, and the search for a valid one, run one after the other in
    `background`: a large one holds up neither training nor the controller. Results reach the inbox
    as `commit` and `find`.

    `parent`: the checkpoint that the next one follows. `data`: what the inspection found the data
    to be. `recipe`: how the job computes. `kernels`: `judge.record` of the workers' fingerprints;
    empty where nobody took any.
    """

    root: Path
    job: Job
    background: Background
    parent: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None
    kernels: Mapping[str, Any] = field(default_factory=dict)
    _parts: dict[tuple[int, int], dict[str, CheckpointPart]] = field(default_factory=dict)
    _trusted: set[str] = field(default_factory=set)
    _open: int = 0

    @property
    def busy(self) -> bool:
        """Whether a commit is under way."""
        return self._open > 0

    @property
    def waiting_for(self) -> tuple[int, ...]:
        """Steps of which some workers' parts have come, but not all."""
        return tuple(sorted({step for step, _ in self._parts}))

    def add(
        self,
        worker: str,
        generation: int,
        message: PartDurable,
        plan: Plan,
        inventory: Inventory,
    ) -> bool:
        """Take one worker's part; True when it is the first of its step. The last one starts the
        commit."""
        step = message.step
        parts = self._parts.setdefault((step, generation), {})
        parts[worker] = CheckpointPart.from_json(message.part)
        if len(parts) == len(plan.workers):
            del self._parts[(step, generation)]
            self._open += 1
            additions = repository.Additions(
                metadata=self._metadata(step, plan),
                expected=repository.expected_tensors(inventory, STATE_KINDS),
                tokenizer=tokenizer_of(self.job),
            )
            self.background.call(
                "commit", lambda: self._commit(step, generation, list(parts.values()), additions)
            )
        return len(parts) == 1

    def forget(self) -> None:
        """A generation ended: what it did not finish is no checkpoint."""
        self._parts.clear()

    def commit_ended(self, committed: Committed | None) -> None:
        """Told by the controller when the result has been posted."""
        self._open -= 1
        if committed is not None:
            self.parent = committed.directory.name

    def find(self) -> None:
        """Look for the newest valid checkpoint, after the commits that were begun; every byte is
        read."""
        self.background.call("find", self._find)

    def _find(self) -> FoundCheckpoint:
        rejected: list[tuple[str, str]] = []
        found = repository.newest_valid(
            self.root, lambda path, reason: rejected.append((path.name, reason))
        )
        warnings: tuple[str, ...] = ()
        if found is not None:
            self._trusted.add(found.name)
            self._refuse_other_data(found)
            warnings = self._refuse_other_recipe(found) + self._refuse_other_kernels(found)
        return FoundCheckpoint(found, tuple(rejected), warnings)

    def _refuse_other_data(self, found: Path) -> None:
        before = Manifest.load(found).metadata.get("data", {}).get("digest")
        now = self.data.get("digest")
        if before is not None and now is not None and before != now:
            raise CheckpointError(
                f"{found}: was trained on data with digest {before}, but {self.data.get('name')} has {now} now, so the "
                "next steps would be another run's; put the data back, or begin a new run with `model: {path: ...}`"
            )

    def _refuse_other_recipe(self, found: Path) -> tuple[str, ...]:
        """Another release may order sums otherwise: refused, or a warning where the job allows
        other bits."""
        before = Manifest.load(found).metadata.get("recipe")
        if before is None or self.recipe is None or before["digest"] == self.recipe.digest:
            return ()
        now = self.recipe.to_dict()
        changed = [
            f"{key}: {before.get(key)} then, {value} now"
            for key, value in now.items()
            if before.get(key) != value
        ]
        text = f"{found}: was computed by another recipe ({'; '.join(changed)}), so the next steps have other bits"
        if judge.is_strict(self.job):
            raise CheckpointError(
                f"{text}; go on with the dougong that wrote it, or accept them: -o numerics=bounded"
            )
        return (text,)

    def _refuse_other_kernels(self, found: Path) -> tuple[str, ...]:
        """Warnings about going on with other kernels than those that made the checkpoint, where the
        job allows it."""
        before = Manifest.load(found).metadata.get("kernels", {})
        verdict = judge.judge_resume(before, self.kernels, judge.is_strict(self.job))
        if verdict.refusal is not None:
            raise CheckpointError(f"{found}: {verdict.refusal}")
        return verdict.warnings

    def _commit(
        self,
        step: int,
        generation: int,
        parts: list[CheckpointPart],
        additions: repository.Additions,
    ) -> Committed:
        start = time.monotonic()
        directory = repository.commit(self.root, step, generation, parts, additions)
        num_bytes = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
        self._trusted.add(directory.name)
        pruned = repository.prune(self.root, self.job.checkpoint.keep, generation, self._trusted)
        removed = tuple(path.name for path in pruned.removed)
        invalid = tuple(path.name for path in pruned.invalid)
        return Committed(step, directory, num_bytes, time.monotonic() - start, removed, invalid)

    def _metadata(self, step: int, plan: Plan) -> dict[str, Any]:
        batch = self.job.batch
        samples = step * batch.lanes * batch.microbatches * batch.microbatch_size
        return {
            "job": identity(self.job),
            "recipe": {"digest": self.recipe.digest, **self.recipe.to_dict()}
            if self.recipe
            else None,
            "plan": [
                {"worker": w.name, "lanes": w.lanes, "experts": experts_text(w.experts)}
                for w in plan.workers
            ],
            "data": {
                "name": self.data.get("name"),
                "digest": self.data.get("digest"),
                "step": step,
                "samples": samples,
                "tokens": samples * self.job.data.sequence_length,
            },
            "random": {"seed": self.job.seed},
            "kernels": dict(self.kernels),
            "parent": self.parent,
            "versions": package_versions(),
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


def tokenizer_of(job: Job) -> Path | None:
    """The tokenizer's file or folder, to lie beside the model; None for the built-in one."""
    return None if job.data.tokenizer == "bytes" else Path(job.data.tokenizer)
