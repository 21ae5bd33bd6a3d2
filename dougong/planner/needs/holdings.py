"""What of a model's state every worker of a plan holds. Formulas of the job and the plan; imports
no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dougong.accelerators.registry import get_accelerator
from dougong.accelerators.staging import SLOT_BYTES
from dougong.job.optimizers.declaration import FLOAT32_BYTES
from dougong.job.optimizers.registry import declaration_of
from dougong.job.schema import Job
from dougong.ops.adapter_names import is_adapter
from dougong.ops.sizes import ALIGNMENT_BYTES, rounded_up
from dougong.parallel.dense.buckets import (
    GRADIENT_BYTES,
    Bucket,
    TensorForm,
    item_bytes,
    make_buckets,
)
from dougong.parallel.dense.unit_buckets import unit_buckets
from dougong.parallel.pieces import owned_specs, owners_of
from dougong.parallel.plan import Inventory, Plan, TensorSpec, Worker
from dougong.planner.needs.dense_units import owned_gradient_bytes

NUM_LINKS = 2
"""Of a worker whose masters lie on the host: for its gradients, and for its new weights."""
LINK_BYTES = 2 * SLOT_BYTES
"""Pinned memory of one of them."""
MASTER_BYTES = FLOAT32_BYTES
"""Of a parameter's float32 master, where its compute copy is another tensor."""


@dataclass(frozen=True)
class StateHolding:
    """One worker's, in bytes.

    weights     compute copies: all tensors outside of the experts where it has lanes (of those that
                come and go none), its experts
    gradients   float32: of its experts, and for each sum of its lanes all dense tensors (where they
                come and go, once of those that it owns)
    masters     float32, of what it owns; 0 where the compute copies themselves are
    moments     what the optimizer keeps of what it trains
    on_host     whether masters and moments lie in the machine's memory, beside its device's
    num_trained parameters that it updates
    """

    weights: int
    gradients: int
    masters: int
    moments: int
    on_host: bool
    num_trained: int

    @property
    def owning(self) -> int:
        """Masters and moments."""
        return self.masters + self.moments

    @property
    def on_device(self) -> int:
        """All that lies where the worker computes."""
        computing = self.weights + self.gradients
        return computing if self.on_host else computing + self.owning


def holdings(job: Job, inventory: Inventory, plan: Plan) -> list[StateHolding]:
    """By rank."""
    model = _ModelBytes.of(job, inventory, plan)
    dense = _owned_dense(inventory, plan)
    found = []
    for worker, of_dense in zip(plan.workers, dense, strict=True):
        found.append(model.holding(job, worker, of_dense))
    return found


def state_bytes(job: Job, inventory: Inventory, plan: Plan) -> list[int]:
    """Memory of every worker's device, by rank, for weights, gradients and optimizer state."""
    return [held.on_device for held in holdings(job, inventory, plan)]


def by_worker(plan: Plan, amounts: Sequence[int]) -> dict[str, int]:
    """By a worker's name, what is given by rank."""
    return {worker.name: amounts[worker.rank] for worker in plan.workers}


def copy_bytes(job: Job) -> int:
    """Bytes of a parameter as it is computed with."""
    return FLOAT32_BYTES if job.precision == "float32" else 2


def owning_bytes(job: Job) -> int:
    """Bytes of a parameter's float32 value and what the optimizer keeps of it: what a checkpoint
    has of it, and a copy of the state."""
    return MASTER_BYTES + declaration_of(job.optimizer).bytes_per_parameter(job.optimizer)


def checkpoint_bytes(job: Job, inventory: Inventory) -> int:
    """What a checkpoint takes on storage: masters, which are the model's own file, and optimizer
    state, whatever the precision."""
    moments = declaration_of(job.optimizer).bytes_per_parameter(job.optimizer)
    trained = sum(t.num_parameters for t in inventory.tensors if t.trainable)
    for site in inventory.sites:
        trained += inventory.num_experts * sum(inventory.trained_sizes(site))
    return inventory.num_parameters * MASTER_BYTES + trained * moments


def expert_bytes(job: Job, inventory: Inventory, island: str) -> int:
    """Memory of one expert of one layer on its owner in this island: weights, gradient and
    optimizer state, but for what lies on the host of a device. Of the layer in which it is most."""
    on_host = owns_on_host(job, island)
    return max(_expert_bytes(job, inventory, site, on_host) for site in inventory.sites)


def owns_on_host(job: Job, island: str) -> bool:
    """Whether the island's workers have devices, and keep masters and optimizer state beside
    them."""
    kind = next(i.accelerator for i in job.islands if i.name == island)
    return job.optimizer.is_on_host and not get_accelerator(kind).shares_machine


def expert_gradient_bytes(inventory: Inventory, site: str) -> int:
    """Of one expert of one site; each tensor begins at a multiple of `ALIGNMENT_BYTES`."""
    sizes = inventory.trained_sizes(site)
    return sum(rounded_up(GRADIENT_BYTES * size, ALIGNMENT_BYTES) for size in sizes)


def expert_copy_bytes(job: Job, inventory: Inventory) -> int:
    """Of one expert as it is computed with: adapters are float32."""
    total = 0
    for name, shape in inventory.expert_shapes:
        each = FLOAT32_BYTES if is_adapter(name) else copy_bytes(job)
        total += each * math.prod(shape)
    return total


def dense_buckets(job: Job, inventory: Inventory, plan: Plan) -> list[Bucket]:
    """The buckets in which dense tensors and their gradients lie on every worker with lanes, as
    `FlatTensors` and `UnitTensors` make them."""
    if job.dense == "shard":
        return dense_groups(job, inventory, plan)[0]
    trained = {t.name: t for t in reversed(inventory.tensors) if t.trainable}
    forms = {n: TensorForm(f"torch.{_dtype(job, t)}", t.shape) for n, t in trained.items()}
    return make_buckets(forms, owners_of(trained, plan.owners))


def dense_groups(job: Job, inventory: Inventory, plan: Plan) -> tuple[list[Bucket], list[range]]:
    """The same where dense tensors come and go (`dense: shard`), with the numbers of the buckets of
    each group (`DenseUnits.groups`)."""
    assert inventory.units is not None, "a model without units is refused when it is looked at"
    trained = [tensor for tensor in inventory.tensors if tensor.trainable]
    forms = {t.name: TensorForm(f"torch.{_dtype(job, t)}", t.shape) for t in trained}
    return unit_buckets(inventory.units, forms, plan.owners)


def dense_gradient_bytes(buckets: Iterable[Bucket]) -> int:
    """Of one sum of gradients of all dense tensors."""
    return GRADIENT_BYTES * sum(bucket.numel for bucket in buckets)


def num_sums(job: Job, worker: Worker) -> int:
    """How many sums of all dense gradients it keeps: the lanes' are apart where their order is
    promised, else they have one together."""
    return len(worker.lanes) if job.is_layout_free else min(1, len(worker.lanes))


def _dtype(job: Job, tensor: TensorSpec) -> str:
    return "float32" if tensor.stays_float32 else job.precision


def _bytes_of(job: Job, tensor: TensorSpec) -> int:
    each = FLOAT32_BYTES if tensor.stays_float32 else copy_bytes(job)
    return each * tensor.num_parameters


def _expert_bytes(job: Job, inventory: Inventory, site: str, on_host: bool) -> int:
    computing = expert_copy_bytes(job, inventory) + expert_gradient_bytes(inventory, site)
    if on_host:
        return computing
    moments = declaration_of(job.optimizer).bytes_per_parameter(job.optimizer)
    master = MASTER_BYTES if job.precision != "float32" else 0
    trained = sum(inventory.trained_sizes(site))
    return computing + moments * trained + master * inventory.expert_parameters


def owned_parameters(inventory: Inventory, plan: Plan) -> list[int]:
    """Of dense tensors, by rank."""
    return [dense.owned for dense in _owned_dense(inventory, plan)]


@dataclass(frozen=True)
class _OwnedDense:
    """How many parameters of dense tensors a worker owns, and trains of them."""

    owned: int = 0
    trained: int = 0


def _owned_dense(inventory: Inventory, plan: Plan) -> list[_OwnedDense]:
    owned, trained = [0] * len(plan.workers), [0] * len(plan.workers)
    for tensor, owner in owned_specs(inventory.tensors, plan.owners):
        owned[owner] += tensor.num_parameters
        trained[owner] += tensor.num_parameters if tensor.trainable else 0
    return [_OwnedDense(*pair) for pair in zip(owned, trained, strict=True)]


@dataclass(frozen=True)
class _ModelBytes:
    """What of a plan is the same for all workers. `dense`: compute copies of all dense tensors that
    stay; `sums`: their gradients, once; `own_sums`: by rank, of those that come and go, what it
    owns; of one expert: its parameters and their compute copies, those of idle ones
    beside the last expert, by site what is trained of it and its gradients; the number of the last
    one."""

    dense: int
    sums: int
    own_sums: tuple[int, ...]
    expert: int
    expert_copies: int
    idle: int
    expert_trained: tuple[int, ...]
    expert_gradients: tuple[int, ...]
    last: int

    @staticmethod
    def of(job: Job, inventory: Inventory, plan: Plan) -> _ModelBytes:
        frozen = sum(_bytes_of(job, t) for t in inventory.tensors if not t.trainable)
        buckets = dense_buckets(job, inventory, plan)
        is_sharded = job.dense == "shard"
        flat = 0 if is_sharded else sum(item_bytes(bucket) * bucket.numel for bucket in buckets)
        own = owned_gradient_bytes(buckets, plan) if is_sharded else [0] * len(plan.workers)
        one = inventory.expert_parameters
        return _ModelBytes(
            dense=frozen + flat,
            sums=0 if is_sharded else dense_gradient_bytes(buckets),
            own_sums=tuple(own),
            expert=one,
            expert_copies=expert_copy_bytes(job, inventory),
            idle=one * inventory.num_idle_experts,
            expert_trained=tuple(sum(inventory.trained_sizes(s)) for s in inventory.sites),
            expert_gradients=tuple(expert_gradient_bytes(inventory, s) for s in inventory.sites),
            last=inventory.num_experts - 1,
        )

    def holding(self, job: Job, worker: Worker, dense: _OwnedDense) -> StateHolding:
        on_host = owns_on_host(job, worker.island)
        has_masters = on_host or job.precision != "float32"
        experts = worker.num_experts * self.expert
        idle = self.idle * _num_last(worker, self.last) if self.idle else 0
        owned = dense.owned + experts + idle
        trained = dense.trained + of_sites(worker, self.expert_trained)
        each = declaration_of(job.optimizer).bytes_per_parameter(job.optimizer)
        gradients = of_sites(worker, self.expert_gradients) + self.own_sums[worker.rank]
        apart = idle + (dense.trained if job.dense == "shard" else 0)
        return StateHolding(
            weights=worker.num_experts * self.expert_copies + (self.dense if worker.lanes else 0),
            gradients=gradients + self.sums * num_sums(job, worker),
            masters=MASTER_BYTES * (owned if has_masters else apart),
            moments=each * trained,
            on_host=on_host,
            num_trained=trained,
        )


def of_sites(worker: Worker, of_one: Sequence[int]) -> int:
    """Of all of a worker's experts, what is given of one by site."""
    return sum(len(own) * each for own, each in zip(worker.experts, of_one, strict=True))


def _num_last(worker: Worker, last: int) -> int:
    """Sites at which it has the last expert, and so those that compute nothing."""
    return sum(1 for experts in worker.experts if experts and experts[-1] == last)
