"""What a worker says to the controller; its agent carries it inside a FromWorker, and what comes
back for the worker inside a ToWorker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from dougong.control.run_sources import RunSources
from dougong.parallel.bridge.measured import CopyRates, MeasuredLink
from dougong.parallel.plan import Inventory
from dougong.storage.trouble import Healed, News, Trouble


@dataclass(frozen=True)
class ModelFound:
    """An InspectTask's answer. `data`: what the data is, with its digest; `shapes`: `JobShapes`;
    `notes` and `warnings`: what a person is told once of the model's folder and the data;
    `sources`: what was read from outside the job file when the run began."""

    inventory: Inventory
    data: dict[str, Any]
    shapes: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sources: RunSources | None = None
    kind: Literal["model_found"] = "model_found"


@dataclass(frozen=True)
class FingerprintFound:
    """A FingerprintTask's answer: `Fingerprint.to_json()`."""

    fingerprint: dict[str, Any]
    kind: Literal["fingerprint_found"] = "fingerprint_found"


@dataclass(frozen=True)
class StepDone:
    """A step is done; `row` is its line of metrics.jsonl, which is recorded as it stands. Only one
    worker says so."""

    step: int
    row: dict[str, Any]
    kind: Literal["step_done"] = "step_done"


@dataclass(frozen=True)
class UpdateSkipped:
    """A step's numbers were not finite, and all workers have left its update out. `where`, in
    words; `in_a_row`: so many steps by now. `times`: so often it was computed. `first_sample` to
    `last_sample`: the numbers of its samples; `windows`: of the data that its bad micro-batches
    have read. Only one worker says so."""

    step: int
    loss: float
    grad_norm: float
    where: str
    in_a_row: int
    first_sample: int = 0
    last_sample: int = 0
    windows: tuple[int, ...] = ()
    times: int = 1
    kind: Literal["update_skipped"] = "update_skipped"


@dataclass(frozen=True)
class StepRepeated:
    """A step's numbers were not finite (`where`, in words), and computed once more from the same
    weights they are. Only one worker says so."""

    step: int
    where: str
    kind: Literal["step_repeated"] = "step_repeated"


@dataclass(frozen=True)
class StepValidated:
    """The validation after a step, where a fault has cut it short and the next generation has made
    it up: it completes the step's row. `by_source`: of each source of a mixture, as in the
    row. Only one worker says so."""

    step: int
    loss: float
    seconds: float
    by_source: dict[str, float] = field(default_factory=dict)
    kind: Literal["step_validated"] = "step_validated"


@dataclass(frozen=True)
class PartDurable:
    """A worker's part of a checkpoint is on storage, in `directory`. `part`: `CheckpointPart` as
    JSON has it."""

    step: int
    directory: str
    part: dict[str, Any]
    kind: Literal["part_durable"] = "part_durable"


@dataclass(frozen=True)
class SaveFailed:
    """Storage has not taken a worker's part of a checkpoint. Training goes on; of the last step
    the part is tried again for a while, and a PartDurable may still come."""

    step: int
    reason: str
    kind: Literal["save_failed"] = "save_failed"


@dataclass(frozen=True)
class StorageTold:
    """Something that a worker or an agent writes is not taken by storage (`trouble`), or is again
    (`healed`): one of the two. An agent says it by itself."""

    trouble: Trouble | None = None
    healed: Healed | None = None
    kind: Literal["storage_told"] = "storage_told"

    @staticmethod
    def of(news: News) -> StorageTold:
        """The message that says it."""
        return StorageTold(trouble=news) if isinstance(news, Trouble) else StorageTold(healed=news)

    @property
    def news(self) -> News | None:
        """What is told."""
        return self.trouble or self.healed


@dataclass(frozen=True)
class DrillAnnounced:
    """The worker is about to fire its drill."""

    step: int
    action: str
    kind: Literal["drill_announced"] = "drill_announced"


@dataclass(frozen=True)
class WorkerWarning:
    """Something that a person should know; the worker goes on."""

    text: str
    kind: Literal["worker_warning"] = "worker_warning"


@dataclass(frozen=True)
class WorkerRaised:
    """The exception with which a worker's part in its generation ends. It is told before anything
    of the generation is left.

    `bases`: names of all its classes, so that a consequence (`PeerError`) is known by its class.
    `errno`: an OSError's number. `place`: `file:line` of the innermost frame that is ours, of the
    innermost one where none is. `stays`: only a peer was lost; the process lives on and waits for
    LeaveGeneration, `await_leave_s` long. Otherwise it ends next. `waited_for`: of a PeerError, the
    workers for whom it has waited in vain. `accused`: of a CorruptionError, the worker whose
    numbers are wrong, or the two between which that happened.
    """

    type: str
    bases: tuple[str, ...]
    message: str
    traceback: str = ""
    errno: int | None = None
    place: str = ""
    stays: bool = False
    waited_for: tuple[str, ...] = ()
    accused: tuple[str, ...] = ()
    kind: Literal["worker_raised"] = "worker_raised"


@dataclass(frozen=True)
class WorkerRests:
    """The worker's generation was to end after a step, and this worker has done the last one. Its
    process waits for LeaveGeneration, as after a WorkerRaised that stays."""

    kind: Literal["worker_rests"] = "worker_rests"


@dataclass(frozen=True)
class WorkerLeft:
    """The worker has left its generation, and its process waits for JoinGeneration. It holds the
    state after `step` in memory; 0: none."""

    step: int
    kind: Literal["worker_left"] = "worker_left"


@dataclass(frozen=True)
class StateFetched:
    """The worker's part holds the state after `step`. `tiers`: the bytes that it has taken from its
    own memory ("own"), a peer's ("peer"), a local disk ("disk") and a checkpoint ("checkpoint");
    `seconds`: how long that took; `rows`: of steps up to this one that the controller has not heard
    of, each with its generation; `validates`: the validation after this step is made up first."""

    step: int
    tiers: dict[str, int]
    seconds: float
    rows: tuple[dict[str, Any], ...] = ()
    validates: bool = False
    kind: Literal["state_fetched"] = "state_fetched"


@dataclass(frozen=True)
class StoreRequest:
    """A question to the controller's store, where the workers of a generation meet; StoreReply
    answers it: `get` and `wait` when all keys are there. `number`: the asker's own, which comes
    back. `value`: bytes, as base64."""

    number: int
    operation: Literal["set", "get", "add", "check", "delete", "wait"]
    keys: tuple[str, ...]
    value: str = ""
    amount: int = 0
    kind: Literal["store_request"] = "store_request"


@dataclass(frozen=True)
class StoreReply:
    """The answer to the request with this number. `amount`: of `add`; of `check` and `delete`, 1
    for yes; `error`: why there is none."""

    number: int
    value: str = ""
    amount: int = 0
    error: str = ""
    kind: Literal["store_reply"] = "store_reply"


@dataclass(frozen=True)
class LinksProbed:
    """What the links between islands give, and the copies between devices and hosts at their ends,
    by worker. Only one worker says so, when a generation has met."""

    links: tuple[MeasuredLink, ...] = ()
    copies: dict[str, CopyRates] = field(default_factory=dict)
    kind: Literal["links_probed"] = "links_probed"


@dataclass(frozen=True)
class WorkerDone:
    """The worker's work is done; its process ends next."""

    kind: Literal["worker_done"] = "worker_done"


WorkerMessage = (
    ModelFound
    | FingerprintFound
    | StepDone
    | UpdateSkipped
    | StepRepeated
    | StepValidated
    | PartDurable
    | SaveFailed
    | StorageTold
    | DrillAnnounced
    | WorkerWarning
    | WorkerRaised
    | WorkerRests
    | WorkerLeft
    | StateFetched
    | StoreRequest
    | LinksProbed
    | WorkerDone
)
