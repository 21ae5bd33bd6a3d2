"""A worker's part of a checkpoint: what crosses from the worker that wrote it to the controller.

Imports no torch. The bytes are on storage when a part is made; a part says where each of them
lies. The controller joins the parts of all workers to a manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dougong.checkpoint.manifest import FileRecord, ModelTensors


@dataclass(frozen=True)
class StateShape:
    """One logical tensor of the state, whole, or by its name a piece of one. `group`: "model", or
    an optimizer's state kind."""

    group: str
    name: str
    shape: tuple[int, ...]

    @property
    def key(self) -> tuple[str, str]:
        return (self.group, self.name)

    def to_json(self) -> list[Any]:
        return [self.group, self.name, list(self.shape)]

    @staticmethod
    def from_json(raw: list[Any]) -> StateShape:
        group, name, shape = raw
        return StateShape(group, name, tuple(shape))


@dataclass(frozen=True)
class ModelDescription:
    """The model as a whole. Rank 0 alone sends it: all workers build the same model.

    `files`: the model folder's small files, by name, as text. `keep_float32`: tensors on disk that
    stay float32 in an export to bfloat16.
    """

    tensors: ModelTensors
    files: Mapping[str, str] = field(default_factory=dict)
    keep_float32: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "tensors": self.tensors.to_json(),
            "files": dict(self.files),
            "keep_float32": list(self.keep_float32),
        }

    @staticmethod
    def from_json(raw: dict[str, Any]) -> ModelDescription:
        tensors = ModelTensors.from_json(raw["tensors"])
        return ModelDescription(tensors, raw["files"], tuple(raw["keep_float32"]))


@dataclass(frozen=True)
class PartWriter:
    """The worker that writes: its name, its rank, the generation that it belongs to, and the number
    of its controller."""

    worker: str
    rank: int
    generation: int
    fence: int = 0


@dataclass(frozen=True)
class CheckpointPart:
    """What one worker has made durable of one step.

    `directory`: the name of the directory in `pending/`. `files`: what this worker wrote of each
    file, by the file's path in that directory. `state`: the logical tensors that these bytes are.
    `ledger`: the ledger's digest after the step, from the worker that holds it.
    """

    worker: str
    rank: int
    generation: int
    step: int
    directory: str
    files: Mapping[str, FileRecord]
    state: tuple[StateShape, ...]
    model: ModelDescription | None = None
    ledger: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back to an equal part."""
        return {
            "worker": self.worker,
            "rank": self.rank,
            "generation": self.generation,
            "step": self.step,
            "directory": self.directory,
            "files": {name: record.to_json() for name, record in self.files.items()},
            "state": [shape.to_json() for shape in self.state],
            "model": None if self.model is None else self.model.to_json(),
            "ledger": self.ledger,
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> CheckpointPart:
        files = {name: FileRecord.from_json(record) for name, record in raw["files"].items()}
        state = tuple(StateShape.from_json(shape) for shape in raw["state"])
        model = raw.get("model")
        return CheckpointPart(
            worker=raw["worker"],
            rank=raw["rank"],
            generation=raw["generation"],
            step=raw["step"],
            directory=raw["directory"],
            files=files,
            state=state,
            model=None if model is None else ModelDescription.from_json(model),
            ledger=raw.get("ledger"),
        )
