"""What a user asks for: the job file's schema. Imports no torch.

`load` reads YAML into it and names lines. Every field says whether it is *logical* (it fixes the
bits of loss and weights) or *physical* (it decides where, how fast and how safely they are
computed). Rules that tie several fields together are in `rules`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt, StrictStr

from dougong.accelerators.registry import BUILT_IN
from dougong.deadlines import DEADLINES, Deadlines
from dougong.job.drills.drill import DrillList
from dougong.job.emulate.emulation import Emulate
from dougong.job.fault.actions import Actions
from dougong.job.fault.classes import ByClass
from dougong.job.fault.deadline_keys import DeadlineKeys
from dougong.job.fault.quarantine import QuarantineKeys
from dougong.job.fault.snapshots import Snapshots
from dougong.job.optimizers.declaration import OptimizerConfig
from dougong.job.optimizers.registry import CHOICE, DECLARATIONS
from dougong.job.parts.data import Data
from dougong.job.parts.lora import Lora
from dougong.job.parts.rates import Rates
from dougong.job.parts.router import Router
from dougong.job.parts.schedule import Schedule
from dougong.job.section import (
    WHOLE,
    AboveZero,
    AcceleratorName,
    BridgeName,
    Count,
    Name,
    PortRange,
    Positive,
    Section,
    Text,
    logical,
    physical,
)

_KINDS = ", ".join(f"`{kind.name}`" for kind in BUILT_IN)
KERNELS_ARE_COMPARED = "the kernels' fingerprints are compared with the checkpoint's"
"""Why a resume may change what kernels run on."""

EXPERTS_PER_TOKEN_KEYS = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_top_k",
    "top_k_experts",
)
"""What families call the number of experts that a token goes to."""


class Model(Section):
    """Which transformers model: a family with its configuration, or a Hugging Face folder. Exactly
    one of the two."""

    family: Text | None = logical(
        None, "a transformers MoE model type, such as qwen3_moe; its weights start at random"
    )
    path: Text | None = logical(
        None, "a Hugging Face folder with config.json and weights to start from"
    )
    attention: Literal["auto", "eager", "sdpa", "flash", "flex"] | None = logical(
        None,
        "the form of attention: `eager`, `sdpa`, `flash` (the package flash_attn), `flex`; `auto`: "
        "the first of flash, sdpa, flex, eager (the fastest first, as a rule) whose backward has "
        "fixed bits on the devices on which the run begins, for all "
        "of its life; null: as transformers chooses for the family, sdpa or eager",
    )
    config: dict[StrictStr, Any] = logical(
        {},
        "keys of the family's own configuration class, those of its text part flat or in "
        "text_config; others are its defaults",
    )
    freeze: tuple[Text, ...] | None = logical(
        None,
        "patterns of the names of tensors that are not trained (`*` stands for anything, dots "
        "too; `!PATTERN` takes some out again, the last that matches decides); experts of a layer "
        "are frozen together; null: none, or with lora all but the adapters",
    )
    lora: Lora | None = logical(None, "train low-rank adapters beside frozen matrices")


class Batch(Section):
    """The logical batch of one step: lanes x microbatches x microbatch_size sequences."""

    lanes: Positive = logical(
        1, "logical data-parallel shards; each attention worker runs one or more of them"
    )
    microbatches: Positive = logical(
        1, "micro-batches that a lane sends through the model in one step"
    )
    microbatch_size: Positive = logical(1, "sequences in one micro-batch")


class Island(Section):
    """A group of like devices with one native collective library."""

    name: Name = physical(..., "letters, digits, '-'; its workers are called NAME/0, NAME/1, ...")
    accelerator: AcceleratorName = logical(
        ...,
        f"kind of device: {_KINDS}, or what an installed package adds (docs/accelerators.md)",
        resume=KERNELS_ARE_COMPARED,
        examples=[kind.name for kind in BUILT_IN],
    )
    workers: Positive = physical(1, "processes, one per device; on cpu they share the machine")
    spares: Count = physical(
        0,
        "agents beside those of its workers that stand by, with all imported and devices held and "
        "not opened: one takes the place of an agent that is lost, or of its node. Each holds as "
        "many devices as the largest agent of the island, on a node of its own if there is one",
    )
    devices: Literal["own", "shared"] = physical(
        "own",
        "`own`: a device for each worker; `shared`: its workers, and those of other islands of the "
        "same kind that say so, use one device of one node together; messages between them go "
        "through host memory. For trying layouts on few devices: they share its speed and memory",
    )
    role: Literal["attention", "experts", "both"] = physical(
        "both", "what its workers compute: attention (all but the routed experts), experts, or both"
    )
    threads: Positive = logical(
        1,
        "compute threads of each worker on the CPU; another number can change bits",
        resume=KERNELS_ARE_COMPARED,
    )
    node: Text | None = physical(
        None,
        "pin to nodes by address, host name, id, Ray label (key=value) or name of a Ray resource; "
        "null: any. It goes whole to the node with most devices free (cpu: CPUs), else to the "
        "fewest of them that hold it",
        examples=["10.0.0.2", "node1", "group=west"],
    )
    speed: Rates | None = physical(
        None,
        "lanes and experts are given to workers in proportion to it; null: 1 in both, as fast as "
        "all others",
    )
    emulate: Emulate | None = physical(
        None,
        "pretend that its workers and links are this slow, for measuring schedules; no bit "
        "changes; null: they are what they are. Where there is no speed, it is taken from here",
    )
    memory_gb: AboveZero | None = physical(
        None,
        "what a worker may take of one device at its peak (10^9 bytes; leave room for what torch "
        "and its libraries take beside tensors); a plan that needs more is refused; null: what the "
        "device (of cpu: the machine) has, where the run can find that out",
    )

    @property
    def shares_device(self) -> bool:
        """Whether its workers use one device together."""
        return self.devices == "shared"


OWN_SIGNING_KEY = "run"
"""What `checkpoint.sign` says for a key that the run makes for itself."""


class Checkpoint(Section):
    """How often a checkpoint is committed and how many are kept."""

    every: Count = physical(100, "steps between checkpoints; 0: only at the end")
    keep: Positive = physical(2, "newest checkpoints that are kept; older ones are deleted")
    sign: Text | None = physical(
        None,
        "a key by which every checkpoint is signed, and without whose signature none is gone on "
        "from: `run`, one that the run makes for itself (in private/, for its owner's eyes alone); "
        "or a file of 32 bytes or more that nobody else may read; null: none is signed",
        examples=["run", "/etc/keys/pretraining"],
    )


class Fault(Section):
    """What the controller may do by itself."""

    max_restarts: Count = physical(
        3,
        "recoveries by itself, within an hour and with no new checkpoint in between, before it "
        "gives up; a preemption is not counted, and a `dougong resume` begins the count anew",
    )
    per_hour: ByClass = physical({}, "`max_restarts` of one class alone, such as `node_lost: 20`")
    actions: Actions = physical(Actions(), "what is done about each class of failure")
    quarantine: QuarantineKeys = physical(QuarantineKeys(), "devices that are used no more")
    without_spare: Literal["wait", "shrink", "stop"] = physical(
        "wait",
        "what a recovery does when no spare and no node that is there can take a lost agent's "
        "place: `wait` for one, `deadlines.node_return_s` long, then shrink; `shrink` at once: the "
        "same bits on the workers that are left, and the others come back when a node does; "
        "`stop`: the run ends. Where the job does not fit on fewer workers, shrink waits",
    )
    non_finite: Literal["stop", "skip"] = logical(
        "stop",
        "a step whose loss or gradient norm is NaN or infinite: `stop` ends the run before its "
        "update and names the place; `skip` computes it anew, and then leaves out its update",
        resume="no step with a finite loss and gradient is computed otherwise",
    )
    audit: Literal["all"] | Positive | None = physical(
        None,
        "a number N: every Nth step is computed a second time before it is committed, the part of "
        "each worker by another one, which costs 1/N of the time, and memory for that part, which "
        "`dougong plan` tells; `all`: every step; null: none",
    )
    max_skips: Positive = physical(
        3,
        "steps in a row that `non_finite: skip` leaves out, and no more; a recovery counts anew",
    )
    snapshots: Snapshots = physical(Snapshots(), "the newest step, kept in workers' memory")
    deadlines: DeadlineKeys = physical(DeadlineKeys(), "time limits; each null: its default")

    def limits(self) -> Deadlines:
        """All time limits, with those that the job sets in their place."""
        return dataclasses.replace(DEADLINES, **self.deadlines.model_dump(exclude_none=True))


class Job(Section):
    """One training job, whole."""

    job: Name = physical(..., "the job's name: letters, digits, '-'")
    model: Model = logical(..., "the model")
    data: Data = logical(..., "the training text")
    batch: Batch = logical(Batch(), "the batch of one step")
    optimizer: Annotated[OptimizerConfig, CHOICE] = logical(
        DECLARATIONS[0].config(), "the update rule"
    )
    schedule: Schedule = logical(Schedule(), "the learning rate over steps")
    router: Router = logical(Router(), "how the load of the experts is kept even")
    steps: Positive = logical(..., "steps to train", resume="no bits depend on how many follow")
    precision: Literal["float32", "bfloat16"] = logical(
        "float32", "of the computation; master weights stay float32"
    )
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63), WHOLE] = logical(
        0, "of every random stream: weights, data, dropout"
    )
    determinism: Literal["layout", "run", "off"] = logical(
        "layout",
        "what keeps the bits: `layout`: any plan gives the same; `run`: the same plan gives the "
        "same, sums across workers are the native library's; `off`: nothing is promised, every "
        "library is free to be fast",
    )
    expert_tile: Literal["auto", "none", 16, 32, 64, 128] = logical(
        "auto",
        "rows in one expert product: `none`: those of one lane's micro-batch; a number: fixed "
        "tiles over the rows of all lanes, faster where a lane has few rows for an expert; "
        "`auto`: tiles where fewer than 128 are expected",
    )
    operators: Literal["auto", "composed"] = logical(
        "auto",
        "what experts are computed by: `auto`: a fused form of the device's, where it passes a "
        "trial; `composed`: plain torch, on every island",
        resume="both compute the same function; steps after it have the new form's bits",
    )
    combine: Literal["at_attention", "at_experts"] = logical(
        "at_attention",
        "where a token's outputs are weighted and added: at_attention, in its router's order (the "
        "same bits on any layout); at_experts, a part on each experts worker (fewer bytes; the "
        "parts depend on the layout)",
    )
    numerics: Literal["exact", "bounded"] = physical(
        "exact",
        "workers of one role whose kernels give different bits: `exact` refuses them, also to go "
        "on from a checkpoint that others made; `bounded` goes on with a warning, equal up to "
        "rounding",
    )
    islands: Annotated[tuple[Island, ...], Field(min_length=1)] = physical(
        ..., "groups of like devices"
    )
    pipeline: Literal["auto", "serial", "colocated", "zebra", "af_pipe"] = physical(
        "auto",
        "the order in which workers take micro-batches through layers: `serial`: one after the "
        "other; `colocated`: likewise, for role both; `zebra` (HeterMoE, arXiv 2504.03871): layer "
        "by layer, all together; `af_pipe` (DisagMoE, arXiv 2605.11005): the same by groups of "
        "four, for roles apart; `auto`: colocated if all workers are both, else zebra",
    )
    recompute: Literal["none", "layers"] = physical(
        "none",
        "what the backward computes again, so that it need not be kept: `layers`: of every decoder "
        "layer its input and its experts' combined answer are kept, and the layer runs again; the "
        "same bits, in a fraction of the memory of activations, for about a fifth more time",
    )
    dense: Literal["copy", "shard"] = physical(
        "copy",
        "tensors outside of the experts: `copy`: every worker with lanes has all of them; `shard`: "
        "it keeps what it owns, and has a layer's tensors, and their gradients, while it computes "
        "that layer; the same bits (determinism: layout), for twice the bytes of weights that "
        "travel. It needs zebra, which has all micro-batches of a step alive at once, or one "
        "micro-batch a step (pipeline: auto chooses zebra); gradients are always added in order",
    )
    offload: Literal["none", "auto"] | Count = physical(
        "none",
        "experts of every layer that workers of role attention keep beside it: a number of them; "
        "`auto`: as many as fill the time that they would wait for the experts workers, by "
        "islands.*.speed (HeterMoE, arXiv 2504.03871)",
    )
    bridge: BridgeName = physical(
        "auto",
        "how tensors go between islands without a common library: `host`: by chunks through host "
        "memory and gloo; a name: what an installed package offers; `auto`: such a one where it "
        "joins the two islands, else `host`. `dougong plan` shows the choice; no bit depends on it",
        examples=["auto", "host"],
    )
    cache: Text | None = physical(
        None,
        "a node's folder for what serves later runs too: tokens of text, fingerprints of devices; "
        "null: $XDG_CACHE_HOME/dougong, else ~/.cache/dougong",
    )
    ports: PortRange | None = physical(
        None, "a range to listen on, such as 20000-20100; null: $DOUGONG_PORTS, else the system's"
    )
    checkpoint: Checkpoint = physical(Checkpoint(), "what is kept on storage")
    fault: Fault = physical(Fault(), "what the controller may do by itself")
    drill: DrillList = physical((), "faults to rehearse; `allowed`: by `dougong drill RUN` alone")

    @property
    def is_layout_free(self) -> bool:
        """Whether the job promises the same bits on any plan: sums have an order of their own."""
        return self.determinism == "layout"

    @property
    def is_deterministic(self) -> bool:
        """Whether the job promises the same bits on the same plan, at least."""
        return self.determinism != "off"

    @property
    def needs_exact_kernels(self) -> bool:
        """Whether other bits of a kernel are a reason to stop: the job promises them on any plan,
        and nobody has taken the promise back."""
        return self.is_layout_free and self.numerics == "exact"
