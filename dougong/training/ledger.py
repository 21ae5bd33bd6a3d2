"""The ledger: one digest a step of the loss, every gradient and every weight, chained from the
first step on.

Each worker takes checksums of what it owns. They are combined without an order, so two numbers a
worker travel and no layout shows; the digest of a step covers the digest of the step before. Equal
digests mean equal runs so far.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dougong.checkpoint.ledger_file import KINDS, LedgerWriter
from dougong.ops.mixing import STEP, mix
from dougong.parallel.comm.world import World
from dougong.parallel.trace.checksum import checksums

DIGEST_BYTES = 16
BEGINNING = "00" * DIGEST_BYTES
"""The digest before the first step."""

_HALF = 1 << 32


class Ledger:
    """One worker's hand in the ledger. Collective: all workers call the same methods in the same
    order.

    `digest` is the chain's newest value. `writer` keeps the checksums of every tensor, None keeps
    none.
    """

    def __init__(
        self, world: World, names: Sequence[str], writer: LedgerWriter | None, digest: str | None
    ) -> None:
        """`names`: the tensors that this worker owns; `digest`: of the step before the next (None:
        the beginning)."""
        self._world = world
        self._rows = {name: row for row, name in enumerate(names)}
        self._keys = {kind: np.array([_key(kind, n) for n in names], np.uint64) for kind in KINDS}
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
        mine = [combine(self._keys[kind], self._values[kind]) for kind in KINDS]
        halves = [float(half) for total in mine for half in divmod(total, _HALF)]
        everybody = self._world.gather(halves, [len(halves)] * self._world.size)
        pairs = [
            [int(v[2 * i]) * _HALF + int(v[2 * i + 1]) for i in range(len(KINDS))]
            for v in everybody
        ]
        totals = [sum(pair[i] for pair in pairs) % (1 << 64) for i in range(len(KINDS))]
        self.digest = chained(self.digest, step, loss, totals)
        if self._writer is not None:
            self._writer.append(step, [self._values[kind] for kind in KINDS])
        named = dict(zip(KINDS, totals, strict=True))
        return {
            "ledger": self.digest,
            "checksums": {f"{kind}s": f"{total:016x}" for kind, total in named.items()},
        }


def combine(keys: NDArray[np.uint64], values: NDArray[np.uint64]) -> int:
    """The sum, modulo 2**64, of a scrambled number for each tensor; a tensor with the checksum 0
    adds nothing."""
    with np.errstate(over="ignore"):
        mixed = mix(keys + values * np.uint64(STEP))
        return int(np.where(values != 0, mixed, np.uint64(0)).sum(dtype=np.uint64))


def chained(before: str, step: int, loss: float, totals: Sequence[int]) -> str:
    """The digest of a step: of the one before, the step's number, its loss (to the bit) and its two
    totals."""
    facts = struct.pack(f"<qd{len(totals)}Q", step, loss, *totals)
    return hashlib.blake2b(bytes.fromhex(before) + facts, digest_size=DIGEST_BYTES).hexdigest()


def _key(kind: str, name: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(f"{kind} {name}".encode(), digest_size=8).digest(), "little"
    )
