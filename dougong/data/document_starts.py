"""Where documents begin in a stream of tokens, so that each is learnt by itself. Imports no torch.

The token that ends a document belongs to it and is learnt; the first token of the next one is not
foretold by it, and positions begin anew there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dougong.data.samples.marks import IGNORED, positions_within
from dougong.data.token_cache import STARTS, STARTS_TYPE, make_entry, write_described
from dougong.data.token_files import TokenFile, open_described
from dougong.errors import DataError

# Part of the cache's key: raise it when the same ids would give other places.
_FORMAT = "dougong documents 1"
_CHUNK_TOKENS = 1 << 22


@dataclass(frozen=True, eq=False)
class DocumentStarts:
    """`places`: of the first token of each document, int64, ascending, each once, from 0 on.
    `length`: of a window, in tokens."""

    places: TokenFile
    length: int
    is_packed: bool = True

    def labels_and_positions(
        self, ids: npt.NDArray[np.int64], windows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Of these windows: `ids` [windows, length] but IGNORED where a document begins; and each
        token's position in its document, or in what the window has of it."""
        begins = np.zeros(ids.shape, dtype=bool)
        for row, (first, last) in enumerate(zip(*self._inside(windows), strict=True)):
            found = np.asarray(self.places.ids[first:last])
            begins[row, found - windows[row] * self.length] = True
        # What comes before a window is not seen, so its first token is foretold by nothing.
        begins[:, 0] = True
        return np.where(begins, IGNORED, ids), positions_within(begins)

    def padding(self, windows: npt.NDArray[np.int64], length: int) -> None:
        """None: no token only fills a window up."""

    def num_targets(self, windows: npt.NDArray[np.int64]) -> int:
        """Tokens that are foretold by another of their document, of all these windows."""
        return int(self.targets(windows).sum())

    def targets(self, windows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """`num_targets`, of each of these windows; int64, as many."""
        first, last = self._inside(windows)
        found: npt.NDArray[np.int64] = self.length - 1 - (last - first)
        return found

    def images_of(self, ids: npt.NDArray[np.int64], windows: npt.NDArray[np.int64]) -> None:
        """Documents of text have none."""

    def digest(self) -> str:
        return f"documents {self.places.digest()}"

    def _inside(
        self, windows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Which of `places` lie behind the first token of each window: from, to."""
        starts = np.asarray(windows, dtype=np.int64) * self.length
        ids = self.places.ids
        first = np.searchsorted(ids, starts, "right")
        return first, np.searchsorted(ids, starts + self.length, "left")


@dataclass(frozen=True)
class BoundaryId:
    """The id by which documents are told apart in bare token ids: the first of each, or the
    last."""

    token: int
    is_first: bool

    @property
    def key(self) -> str:
        return "document_start" if self.is_first else "document_end"


def find_starts(tokens: TokenFile, boundary: BoundaryId, cache: Path | None) -> TokenFile:
    """The places at which documents begin, looked for once and kept in `cache`. Raises DataError
    where no token is that id, and for a cache that cannot be written."""
    # A long file's digest is one of samples: its time tells of a change between them.
    written = tokens.path.stat().st_mtime_ns
    identity = [_FORMAT, tokens.digest(), written, boundary.token, boundary.is_first]
    key = hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()

    def write(folder: Path) -> None:
        num_found = 0
        with write_described(folder / STARTS, STARTS_TYPE) as file:
            file.write(np.zeros(1))
            for start in range(0, tokens.num_tokens, _CHUNK_TOKENS):
                found = _starts_in(tokens, boundary, start)
                num_found += found.size
                file.write(found[(found > 0) & (found < tokens.num_tokens)])
        if num_found == 0:
            raise DataError(
                f"data.{boundary.key}: no token of {tokens.path} is {boundary.token}, so nothing "
                "tells its documents apart; give the id that its tokeniser has put between them"
            )

    entry = make_entry(cache, f"documents-{key}", str(tokens.path), write)
    return open_described(entry / STARTS)


def _starts_in(tokens: TokenFile, boundary: BoundaryId, start: int) -> npt.NDArray[np.int64]:
    found = np.flatnonzero(tokens.ids[start : start + _CHUNK_TOKENS] == boundary.token) + start
    return found if boundary.is_first else found + 1
