"""Whether stored ids are wider numbers than somebody says: a sample shows it. Imports no torch.

An id of a vocabulary of V fits in few bytes. Read in halves, a wider number gives one half that
varies and others that are nearly nothing: at most V >> 16 for 16 bits, else zero. No text gives
such ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dougong.errors import DataError

# Ids of a file that are looked at, from its beginning on.
_SAMPLE = 1 << 14
# Fewer than these prove nothing.
_LEAST_LARGE = 32
# Where nobody says.
_LIKELY_VOCABULARY = 1 << 18


def refuse_other_width(path: Path, ids: npt.NDArray[Any], vocab_size: int | None) -> None:
    """DataError, with the proof, for stored ids that are parts of wider ones."""
    sample = np.array(ids[:_SAMPLE])
    width = sample.itemsize
    for parts in (8, 4, 2):
        if parts * width > 8:
            continue
        place = _varying_part(sample, parts, vocab_size)
        if place is None:
            continue
        most = _limits(8 * width, parts, vocab_size)[-1]
        which = "last" if place == 0 else "first"
        raise DataError(
            f"{path}: read as {sample.dtype}, of every {parts} ids the {which} is never above "
            f"{most}: {_shown(sample)}; so these are ids of {8 * parts * width} bits"
            f"{_remedy(path, place, parts, width)}"
        )


def _varying_part(sample: npt.NDArray[Any], parts: int, vocab_size: int | None) -> int | None:
    """Which one of every `parts` ids holds all, the first or the last; None where it is not so."""
    groups = sample[: sample.size // parts * parts].reshape(-1, parts)
    limits = _limits(8 * sample.itemsize, parts, vocab_size)
    for full, lowest_first in ((0, groups), (parts - 1, groups.byteswap()[:, ::-1])):
        lowest, others = lowest_first[:, 0], lowest_first[:, 1:]
        # Were these ids by themselves, each of the columns would hold as many large ones.
        num_large = int((lowest > limits[-1]).sum())
        is_small = bool((others >= 0).all() and (others <= limits).all())
        if is_small and num_large >= _LEAST_LARGE:
            return full
    return None


def _limits(bits: int, parts: int, vocab_size: int | None) -> list[int]:
    """The most that the parts of an id can be, from the second lowest on."""
    largest = (vocab_size or _LIKELY_VOCABULARY) - 1
    return [largest >> (bits * part) for part in range(1, parts)]


def _shown(sample: npt.NDArray[Any]) -> str:
    return ", ".join(str(one) for one in sample[:8].tolist()) + ", ..."


def _remedy(path: Path, place: int, parts: int, width: int) -> str:
    if place != 0:
        return " with the highest byte first; save them with the lowest first: ids.astype('<u4')"
    name = "int64" if parts * width == 8 else f"uint{8 * parts * width}"
    return f'; say so in {path.name}.json, beside it: {{"dtype": "{name}"}}'
