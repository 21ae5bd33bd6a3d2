"""`fault.snapshots`: what workers keep of the newest step in memory, for a recovery without
storage."""

from __future__ import annotations

from typing import Literal

from dougong.job.section import Count, Section, Text, physical


class Snapshots(Section):
    """The state after a step, kept in the memory of its worker and of other workers.

    It is copied while the next step computes. A recovery goes on from it, and reads a checkpoint
    only where too many workers were lost at once.
    """

    every: Count = physical(1, "steps between two snapshots; 0: none, and no memory for them")
    replicas: Literal["auto"] | Count = physical(
        "auto",
        "copies of a worker's snapshot in the memory of so many others, on other nodes if there "
        "are any: so many workers may be lost at once; 0: none, a lost worker's part is read from "
        "a checkpoint. A worker keeps two snapshots of itself and two of each that it keeps for "
        "another. auto: one, and no snapshots at all where a machine would have less than a tenth "
        "of its memory left beside them and its workers' peaks",
    )
    local: Text | None = physical(
        None,
        "a folder on each node's own disk where the newest snapshot is written too, beside "
        "training: for a worker that is started anew on the same node; null: none",
    )

    @property
    def are_kept(self) -> bool:
        """Whether there are any."""
        return self.every > 0

    @property
    def num_replicas(self) -> int:
        """Copies of each worker's, where there are any snapshots."""
        return 1 if self.replicas == "auto" else self.replicas
