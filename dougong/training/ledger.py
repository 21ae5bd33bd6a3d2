"""The ledger: one digest a step of the loss, every gradient and every weight, chained from the
first step on.

Each worker takes checksums of what it owns. They are combined without an order, so two numbers a
worker travel and no layout shows; the digest of a step covers the digest of the step before. Equal
digests mean equal runs so far.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dougong.checkpoint.ledger_file import KINDS
from dougong.ops.mixing import STEP, mix
from dougong.parallel.comm.world import World
from dougong.parallel.trace.checksum import checksums
from dougong.storage.stored_ledger import StoredLedger
from dougong.training.hooks import StepHook
from dougong.training.results.reports import StepResult

DIGEST_BYTES = 16
BEGINNING = "00" * DIGEST_BYTES
"""The digest before the first step."""

_WRAP = 1 << 64
_TOTALS = struct.Struct(f"<{len(KINDS)}Q")
"""What a worker sends of a step: the total of each kind."""
TOTALS_BYTES = _TOTALS.size


class Ledger:
    """One worker's hand in the ledger. Collective: all workers call the same methods in the same
    order.

    `digest` is the chain's newest value. `writer` keeps the checksums of every tensor, None keeps
    none.
    """

    def __init__(
        self, world: World, names: Sequence[str], writer: StoredLedger | None, digest: str | None
    ) -> None:
        """`names`: the tensors that this worker owns; `digest`: of the step before the next (None:
        the beginning)."""
        self._world = world
        self._rows = {name: row for row, name in enumerate(names)}
        self._keys = {kind: _keys(kind, names) for kind in KINDS}
        self._values = {kind: np.zeros(len(names), np.uint64) for kind in KINDS}
        self._writer = writer
        self.digest = digest or BEGINNING

    def note(self, kind: str, tensors: Mapping[str, Tensor]) -> None:
        """Take the checksums of this step's gradients or weights, as they are now."""
        values = self._values[kind]
        values[:] = 0
        values[[self._rows[name] for name in tensors]] = checksums(list(tensors.values()))

    def close(self, step: int, loss: float) -> dict[str, Any]:
        """Combine all workers' checksums of a step into its digest; returns what a row of metrics
        says of it."""
        totals = self._gather_totals()
        self.digest = chained(self.digest, step, loss, totals)
        if self._writer is not None:
            self._writer.append(step, [self._values[kind] for kind in KINDS])
        checksums_by_kind = {
            f"{kind}s": f"{total:016x}" for kind, total in zip(KINDS, totals, strict=True)
        }
        return {"ledger": self.digest, "checksums": checksums_by_kind}

    def finish(self) -> None:
        """No further step comes."""
        if self._writer is not None:
            self._writer.finish()

    def leave(self) -> None:
        """Nobody waits for what is not written yet. Any thread may call this."""
        if self._writer is not None:
            self._writer.close()

    def _gather_totals(self) -> list[int]:
        """All workers' checksums added up, modulo 2**64, one total for each of `KINDS`."""
        mine = [combine(self._keys[kind], self._values[kind]) for kind in KINDS]
        payloads = self._world.gather_bytes(_TOTALS.pack(*mine), [TOTALS_BYTES] * self._world.size)
        # Sums modulo 2**64 have no order, so it does not show who owns what.
        of_workers = [_TOTALS.unpack(payload) for payload in payloads]
        return [sum(column) % _WRAP for column in zip(*of_workers, strict=True)]


class LedgerHook(StepHook):
    """Keeps the ledger of a run: the gradients before clipping, and the weights after the update
    and after every hook that moves them."""

    def __init__(self, ledger: Ledger, masters: Mapping[str, Tensor]) -> None:
        """`masters`: what this worker owns; the tensors are read anew after every update."""
        self._ledger = ledger
        self._masters = masters
        self._row: dict[str, Any] = {}

    def finish(self) -> None:
        """No further step comes."""
        self._ledger.finish()

    def leave(self) -> None:
        """The generation is over. Any thread may call this."""
        self._ledger.leave()

    @property
    def digest(self) -> str:
        """The newest step's."""
        return self._ledger.digest

    def gradients_ready(self, gradients: Mapping[str, Tensor]) -> None:
        self._ledger.note("gradient", gradients)

    def after_update(self, result: StepResult) -> None:
        self._ledger.note("weight", self._masters)
        self._row = self._ledger.close(result.step, result.loss)

    def update_skipped(self, result: StepResult) -> None:
        """Close the step without its gradients: the bits of a NaN depend on the order of operands,
        which is the layout's. That it was skipped is in the digest all the same, since no step
        with an update is without gradients."""
        self._ledger.note("gradient", {})
        self._ledger.note("weight", self._masters)
        self._row = self._ledger.close(result.step, result.loss)

    def metrics(self, whole: bool) -> dict[str, Any]:
        return self._row


def combine(keys: NDArray[np.uint64], values: NDArray[np.uint64]) -> int:
    """The sum, modulo 2**64, of a scrambled number for each tensor; a tensor with the checksum 0
    adds nothing."""
    with np.errstate(over="ignore"):
        mixed = mix(keys + values * np.uint64(STEP))
        return int(np.where(values != 0, mixed, np.uint64(0)).sum(dtype=np.uint64))


def chained(before: str, step: int, loss: float, totals: Sequence[int]) -> str:
    """The digest of a step: of the one before, the step's number, its loss (to the bit) and its two
    totals. Every NaN is the same one."""
    loss = math.nan if math.isnan(loss) else loss
    facts = struct.pack(f"<qd{len(totals)}Q", step, loss, *totals)
    return hashlib.blake2b(bytes.fromhex(before) + facts, digest_size=DIGEST_BYTES).hexdigest()


def _keys(kind: str, names: Sequence[str]) -> NDArray[np.uint64]:
    """What tells a tensor's checksum of one kind from every other one, uint64 [names]."""
    keys = [hashlib.blake2b(f"{kind} {name}".encode(), digest_size=8).digest() for name in names]
    return np.array([int.from_bytes(key, "little") for key in keys], np.uint64)
