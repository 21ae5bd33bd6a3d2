"""Which tokens a lane reads at a step: a pure function of the job, with no state and no torch.

The token stream is cut into windows of `sequence_length` ids (a rest that fills no window is never
read). A fixed pseudo-random choice of windows is held out for validation, the same for every seed.
Each epoch visits all others once, in an order keyed by seed and epoch. Samples are numbered by
step, then lane, micro-batch and row; sample n is window `n mod windows` of epoch `n div windows`.
So nothing is read twice or skipped within an epoch, whoever reads it, after any number of resumes
and on any number of workers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dougong.control.cache_place import cache_place
from dougong.data.samples.order import WindowOrder
from dougong.data.source_windows import (
    SourceWindows,
    TokenBatch,
    find_shortage,
    held_out_of,
    reread_remarks,
)
from dougong.data.sources import open_source
from dougong.data.token_files import WHOLE_TOKENS
from dougong.errors import DataError
from dougong.job.parts.data import Validation
from dougong.job.schema import Job
from dougong.remarks import NOTHING, Remarks


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """The tokens of one job. Equal jobs over equal tokens read equal batches."""

    source: SourceWindows
    lanes: int
    microbatches: int
    microbatch_size: int
    steps: int
    validation: Validation | None
    remarks: Remarks = NOTHING

    @property
    def name(self) -> str:
        """What the data is called in messages."""
        return self.source.name

    @property
    def num_windows(self) -> int:
        """Windows in all, held-out ones included."""
        return self.source.order.num_windows

    @property
    def num_held_out(self) -> int:
        """Windows that are never trained on."""
        return self.source.order.num_held_out

    @property
    def num_train(self) -> int:
        """Windows of one epoch."""
        return self.source.order.num_train

    @property
    def num_validation_batches(self) -> int:
        """How many `validation_batch` there are: `validation.batches` for each lane.

        Lane l reads l, l + lanes, ...
        """
        return self.validation.batches * self.lanes if self.validation else 0

    def batch(self, step: int, lane: int, microbatch: int) -> npt.NDArray[np.int64]:
        """Token ids of one micro-batch, int64 [microbatch_size, sequence_length]; `step` counts
        from 1.

        Raises DataError if an id is outside the vocabulary.
        """
        return self.microbatch(step, lane, microbatch).ids

    def microbatch(self, step: int, lane: int, microbatch: int) -> TokenBatch:
        """`batch`, with what is known of its tokens. Raises DataError also for a step of which
        nothing is learnt."""
        assert step >= 1, f"steps count from 1, not {step}"
        assert 0 <= lane < self.lanes, f"lane {lane} of {self.lanes}"
        assert 0 <= microbatch < self.microbatches, (
            f"micro-batch {microbatch} of {self.microbatches}"
        )
        windows = self.source.order.train(self._samples(step, lane, microbatch))
        if self.source.marks is None:
            return self.source.read(windows)
        return self.source.read(windows, self._num_targets(step) / self._num_microbatches)

    @property
    def _num_microbatches(self) -> int:
        """Micro-batches of a step, on all lanes."""
        return self.lanes * self.microbatches

    def samples(self, step: int) -> tuple[int, int]:
        """The numbers of the first and the last sample of a step."""
        count = self._num_microbatches * self.microbatch_size
        return (step - 1) * count, step * count - 1

    def windows(self, step: int, lane: int, microbatch: int) -> list[int]:
        """The numbers of the windows that a micro-batch reads, counted through the tokens."""
        samples = self._samples(step, lane, microbatch)
        return [int(window) for window in self.source.order.train(samples)]

    def validation_batch(self, index: int) -> npt.NDArray[np.int64]:
        """Held-out ids, int64 [microbatch_size, sequence_length].

        `index` counts from 0 to num_validation_batches - 1.
        """
        return self.validation_microbatch(index).ids

    def validation_microbatch(self, index: int) -> TokenBatch:
        """`validation_batch`, with what is known of its tokens. Raises DataError also where nothing
        of all of them is learnt."""
        assert 0 <= index < self.num_validation_batches, (
            f"validation batch {index} of {self.num_validation_batches}"
        )
        places = index * self.microbatch_size + np.arange(self.microbatch_size)
        windows = self.source.order.held_out(places)
        if self.source.marks is None:
            return self.source.read(windows)
        every = np.arange(self.num_validation_batches * self.microbatch_size)
        count = self.source.num_targets(self.source.order.held_out(every))
        if count == 0:
            raise self._nothing_learnt("the held-out windows")
        return self.source.read(windows, count / self.num_validation_batches)

    @functools.cached_property
    def _num_targets(self) -> Callable[[int], int]:
        """Targets of a step, on all lanes; each micro-batch of a step asks for the same one."""

        @functools.lru_cache(maxsize=2)
        def count(step: int) -> int:
            first, last = self.samples(step)
            found = self.source.num_targets(self.source.order.train(np.arange(first, last + 1)))
            if found == 0:
                raise self._nothing_learnt(f"step {step}")
            return found

        return count

    def _nothing_learnt(self, where: str) -> DataError:
        return DataError(
            f"{self.name}: {where} would learn nothing: every document there is one token long; "
            "check where documents end, or set data.document_masks: false"
        )

    def _samples(self, step: int, lane: int, microbatch: int) -> npt.NDArray[np.int64]:
        first = ((step - 1) * self.lanes + lane) * self.microbatches + microbatch
        return first * self.microbatch_size + np.arange(self.microbatch_size)

    def digest(self) -> str:
        """Hexadecimal name of the tokens and of how they are cut.

        Runs with other digests read other data.
        """
        return self.source.digest()

    def describe(self) -> dict[str, object]:
        """Figures for the plan and the report.

        `epochs` is how often the whole job reads each training window.
        """
        read = self.steps * self._num_microbatches * self.microbatch_size
        return {
            "name": self.name,
            "tokens": self.source.tokens.num_tokens,
            "windows": self.num_windows,
            "held_out": self.num_held_out,
            "epochs": round(read / self.num_train, 4),
            "digest": self.digest(),
        }


def open_data(job: Job, vocab_size: int | None, cache: Path | None = None) -> TokenWindows:
    """Open what the `data:` of a job names. `vocab_size` is the model's; None leaves ids unchecked.

    Text is tokenised once into `cache` (default: `tokens` in the job's cache). Raises DataError for
    data that is missing, empty, cut short, or too small for one step's windows, and for ids outside
    the vocabulary (checked at once in files of up to 64 Mi tokens, else when they are read).
    """
    place = cache_place(job.cache)
    if cache is None and place is not None:
        cache = place / "tokens"
    opened = open_source(job, vocab_size, cache)
    tokens, length = opened.tokens, job.data.sequence_length
    shortage = find_shortage(job, opened.name, tokens.num_tokens)
    if shortage is not None:
        raise DataError(shortage)
    if vocab_size is not None and tokens.num_tokens <= WHOLE_TOKENS:
        tokens.check_all(vocab_size)
    num_windows = tokens.num_tokens // length
    order = WindowOrder(num_windows, held_out_of(job, num_windows), job.seed)
    return TokenWindows(
        source=SourceWindows(opened.name, tokens, vocab_size, length, order, opened.marks),
        lanes=job.batch.lanes,
        microbatches=job.batch.microbatches,
        microbatch_size=job.batch.microbatch_size,
        steps=job.steps,
        validation=job.data.validation,
        remarks=opened.remarks + reread_remarks(job, opened.name, tokens.num_tokens),
    )
