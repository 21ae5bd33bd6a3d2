"""What is known of the tokens of a window beside their ids: which are learnt, and where documents
begin. Imports no torch."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dougong.data.samples.image_batch import ImageBatch

IGNORED = -100
"""The label of what is not learnt (torch's `ignore_index`)."""


class TokenMarks(Protocol):
    """Of all windows of a source. `is_packed`: whether several documents may lie in one."""

    @property
    def is_packed(self) -> bool: ...

    def labels_and_positions(
        self, ids: npt.NDArray[np.int64], windows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
        """Of these windows: `ids` [windows, length] where they are learnt, elsewhere IGNORED; and
        each token's position in its own document, from 0 (None where a window holds one alone)."""

    def padding(self, windows: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.bool_] | None:
        """Which tokens of these windows only fill them up, bool [windows, length]; None where there
        are none."""

    def num_targets(self, windows: npt.NDArray[np.int64]) -> int:
        """Tokens that are learnt, of all these windows together."""

    def images_of(
        self, ids: npt.NDArray[np.int64], windows: npt.NDArray[np.int64]
    ) -> ImageBatch | None:
        """Of these windows, which hold `ids`; None where they have none."""

    def digest(self) -> str: ...


def positions_within(begins: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Each token's position in its own document, int64 [windows, length]. `begins`: likewise, not
    zero where a document begins; the first token of a window has position 0 in any case."""
    places = np.broadcast_to(np.arange(begins.shape[1]), begins.shape)
    return places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)
