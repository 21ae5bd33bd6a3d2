"""Where a model is cut into segments, as the side that runs the segments must know it.

`models.cut` makes a `Cut`; flights and the executor read it. It stands here, in the lowest room
that reads it: the model's side may know of segments, but segments know no models.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """A model's sites (experts calls) in the order of their calls; between them lie its segments.

    `names`: what the model calls its experts modules, by site. `has_identity`: some experts return
    the token itself. `layers`: the names of those that keep nothing and run again in the backward,
    on both sides of an experts call (`recompute: layers`); none with `recompute: none`.
    """

    names: tuple[str, ...]
    num_experts: int
    has_identity: bool
    layers: tuple[str, ...] = ()

    @property
    def recomputes(self) -> bool:
        """Whether the backward computes again what the forward did not keep. Executor and flights
        know it from here alone."""
        return bool(self.layers)

    @property
    def forgets_hidden(self) -> bool:
        """Whether what was handed to the experts need not be kept once they have answered. Experts
        that return the token itself need it in the backward, too."""
        return self.recomputes and not self.has_identity

    @property
    def num_sites(self) -> int:
        return len(self.names)

    @property
    def num_segments(self) -> int:
        """One more than sites: the last segment ends in the loss."""
        return len(self.names) + 1
