"""Which tokens a lane reads at a step: a pure function of the job, with no state and no torch.

The token stream is cut into windows of `sequence_length` ids (a rest that fills no window is never
read). A fixed pseudo-random choice of windows is held out for validation, the same for every seed.
Each epoch visits all others once, in an order keyed by seed and epoch. Samples are numbered by
step, then lane, micro-batch and row; sample n is window `n mod windows` of epoch `n div windows`.
So nothing is read twice or skipped within an epoch, whoever reads it, after any number of resumes
and on any number of workers. Of a mixture, sample n is one of its sources' (`samples.blend`), and
among those of that source it has a number that takes the place of n.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dougong.control.cache_place import cache_place
from dougong.data.dead_steps import first_dead_step
from dougong.data.image_tokens import refuse_image_tokens
from dougong.data.mixture import Mixture, mixture_of, mixture_remarks
from dougong.data.samples.order import WindowOrder
from dougong.data.source_windows import (
    SourceWindows,
    TokenBatch,
    find_shortage,
    held_out_of,
    reread_remarks,
)
from dougong.data.sources import OpenedSource, Opener, at_source
from dougong.data.token_files import WHOLE_TOKENS
from dougong.errors import DataError
from dougong.job.parts.data import Validation
from dougong.job.schema import Job
from dougong.job.yaml.locations import KeyPath
from dougong.job.yaml.provenance import dotted
from dougong.remarks import NOTHING, Remarks


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """The tokens of one job. Equal jobs over equal tokens read equal batches."""

    mixture: Mixture
    lanes: int
    microbatches: int
    microbatch_size: int
    steps: int
    validation: Validation | None
    remarks: Remarks = NOTHING

    @property
    def name(self) -> str:
        """What the data is called in messages."""
        return self.mixture.name

    @property
    def num_windows(self) -> int:
        """Windows in all, held-out ones included."""
        return sum(source.order.num_windows for source in self.mixture.sources)

    @property
    def num_held_out(self) -> int:
        """Windows that are never trained on."""
        return sum(source.order.num_held_out for source in self.mixture.sources)

    @property
    def num_train(self) -> int:
        """Windows of one epoch, of all sources together."""
        return self.num_windows - self.num_held_out

    @property
    def num_validation_rounds(self) -> int:
        """In how many rounds of a batch for each lane the loss is measured: `validation.batches`
        of them for each source, the first source's first."""
        return self.validation.batches * len(self.mixture.sources) if self.validation else 0

    @property
    def num_validation_batches(self) -> int:
        """How many `validation_batch` there are. Lane l reads l, l + lanes, ..."""
        return self.num_validation_rounds * self.lanes

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
        batch = self.mixture.read(self._samples(step, lane, microbatch))
        if batch.labels is None:
            return batch
        return replace(batch, num_targets=self._num_targets(step) / self._num_microbatches)

    @property
    def _num_microbatches(self) -> int:
        """Micro-batches of a step, on all lanes."""
        return self.lanes * self.microbatches

    @property
    def _num_samples(self) -> int:
        """Samples of a step."""
        return self._num_microbatches * self.microbatch_size

    def samples(self, step: int) -> tuple[int, int]:
        """The numbers of the first and the last sample of a step."""
        count = self._num_samples
        return (step - 1) * count, step * count - 1

    def windows(self, step: int, lane: int, microbatch: int) -> list[int]:
        """The numbers of the windows that a micro-batch reads, counted through the tokens of one
        source after the other."""
        found = self.mixture.windows(self._samples(step, lane, microbatch))
        return [int(window) for window in found]

    def validation_batch(self, index: int) -> npt.NDArray[np.int64]:
        """Held-out ids of one source, int64 [microbatch_size, sequence_length].

        `index` counts from 0 to num_validation_batches - 1.
        """
        return self.validation_microbatch(index).ids

    def validation_microbatch(self, index: int) -> TokenBatch:
        """`validation_batch`, with what is known of its tokens: the mean of a source's batches
        weighs every target of them the same. Raises DataError also where nothing of all of them is
        learnt."""
        assert 0 <= index < self.num_validation_batches, (
            f"validation batch {index} of {self.num_validation_batches}"
        )
        each = self.num_validation_batches // len(self.mixture.sources)
        number, inside = divmod(index, each)
        source = self.mixture.sources[number]
        places = inside * self.microbatch_size + np.arange(self.microbatch_size)
        batch = source.read(source.order.held_out(places), self.mixture.form)
        if batch.labels is None:
            return batch
        return replace(batch, num_targets=self._held_out_targets[number] / each)

    @functools.cached_property
    def _held_out_targets(self) -> tuple[int, ...]:
        """Of each source, targets of the held-out windows that are read."""
        count = self.num_validation_batches // len(self.mixture.sources) * self.microbatch_size
        found = []
        for source in self.mixture.sources:
            found.append(source.num_targets(source.order.held_out(np.arange(count))))
            if found[-1] == 0:
                raise _nothing_learnt(source.name, "the held-out windows")
        return tuple(found)

    @functools.cached_property
    def held_out_shares(self) -> tuple[float, ...]:
        """What part of the validation loss each source's own has: its part of the targets that are
        trained on, were all of its windows as those that are held out."""
        pairs = zip(self.mixture.blend.shares, self._held_out_targets, strict=True)
        parts = [share * targets for share, targets in pairs]
        return tuple(part / sum(parts) for part in parts)

    @functools.cached_property
    def _num_targets(self) -> Callable[[int], int]:
        """Targets of a step, on all lanes; each micro-batch of a step asks for the same one."""

        @functools.lru_cache(maxsize=2)
        def count(step: int) -> int:
            first, last = self.samples(step)
            found = self.mixture.num_targets(np.arange(first, last + 1))
            if found == 0:
                raise _nothing_learnt(self.name, f"step {step}")
            return found

        return count

    def check_learnt(self) -> None:
        """Raises DataError where the job has a step of which nothing is learnt, or where nothing is
        learnt of what a source holds out."""
        step = first_dead_step(self.mixture, self.steps, self._num_samples)
        if step is not None:
            raise _nothing_learnt(self.name, f"step {step}")
        if self.validation:
            assert self._held_out_targets, "each source has some"

    def _samples(self, step: int, lane: int, microbatch: int) -> npt.NDArray[np.int64]:
        first = ((step - 1) * self.lanes + lane) * self.microbatches + microbatch
        return first * self.microbatch_size + np.arange(self.microbatch_size)

    def digest(self) -> str:
        """Hexadecimal name of the tokens, how they are cut, and how sources are mixed.

        Runs with other digests read other data.
        """
        return self.mixture.digest()

    def describe(self) -> dict[str, object]:
        """Figures for the plan and the report.

        `epochs` is how often the whole job reads each training window; of a mixture, in the mean,
        and of each of its `sources`.
        """
        read = self.steps * self._num_samples
        sources = self.mixture.sources
        figures: dict[str, object] = {
            "name": self.name,
            "tokens": sum(source.tokens.num_tokens for source in sources),
            "windows": self.num_windows,
            "held_out": self.num_held_out,
            "epochs": round(read / self.num_train, 4),
            "digest": self.digest(),
        }
        return {**figures, "sources": self.mixture.describe(read)} if len(sources) > 1 else figures


def _nothing_learnt(name: str, where: str) -> DataError:
    return DataError(
        f"{name}: {where} would learn nothing: every document there is one token long; check "
        "where documents end (padding may have the same id), give a step more windows (batch), or "
        "set data.document_masks: false"
    )


def open_data(job: Job, vocab_size: int | None, cache: Path | None = None) -> TokenWindows:
    """Open what the `data:` of a job names. `vocab_size` is the model's; None leaves ids unchecked.

    Text is tokenised once into `cache` (default: `tokens` in the job's cache). Raises DataError for
    data that is missing, empty, cut short, or too small for one step's windows, for a step of which
    nothing is learnt, for two sources of the same tokens, and for ids outside the vocabulary
    (checked at once in files of up to 64 Mi tokens, else when they are read).
    """
    cache = tokens_place(job) if cache is None else cache
    opener, sources, told = Opener(job, vocab_size, cache), [], NOTHING
    for number, (key, source) in enumerate(job.data.sources):
        with at_source(key):
            opened = opener.open(source)
            sources.append(windows_of(job, opened, vocab_size, key, number))
        told += opened.remarks
    refuse_image_tokens(job, sources)
    mixture = mixture_of(job, sources)
    for one, share in zip(sources, mixture.blend.shares, strict=True):
        told += reread_remarks(job, one.name, one.tokens.num_tokens, share)
    if job.data.mixture:
        told += mixture_remarks(job, mixture)
    data = TokenWindows(
        mixture=mixture,
        lanes=job.batch.lanes,
        microbatches=job.batch.microbatches,
        microbatch_size=job.batch.microbatch_size,
        steps=job.steps,
        validation=job.data.validation,
        remarks=told,
    )
    data.check_learnt()
    return data


def tokens_place(job: Job) -> Path | None:
    """Where text is kept as tokens; None: there is no such place."""
    place = cache_place(job.cache)
    return None if place is None else place / "tokens"


def windows_of(
    job: Job, opened: OpenedSource, vocab_size: int | None, place: KeyPath, number: int
) -> SourceWindows:
    """The windows of a source, the `number`th of the job. Raises DataError where they are too few,
    and for ids outside of the vocabulary."""
    tokens, length = opened.tokens, job.data.sequence_length
    shortage = find_shortage(job, opened.name, tokens.num_tokens)
    if shortage is not None:
        raise DataError(shortage)
    if vocab_size is not None and tokens.num_tokens <= WHOLE_TOKENS:
        tokens.check_all(vocab_size)
    num_windows = tokens.num_tokens // length
    order = WindowOrder(num_windows, held_out_of(job, num_windows), job.seed, number)
    return SourceWindows(
        dotted(place), opened.name, tokens, vocab_size, length, order, opened.marks
    )
