"""The sources of a job: which windows of which of them samples are, and what is told of it. Imports
no torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from dougong.data.samples.blend import Blend, whole_weights
from dougong.data.samples.image_batch import ImageBatch, Patches
from dougong.data.source_windows import LearntForm, SourceWindows, TokenBatch, windows_of_step
from dougong.errors import DataError
from dougong.job.schema import Job
from dougong.remarks import Remarks

# A source that is read so many times as often as another is told.
_MUCH_OFTENER = 10


@dataclass(frozen=True, eq=False)
class Mixture:
    """The sources of a job, one or several, and how their samples are shared out."""

    sources: tuple[SourceWindows, ...]
    blend: Blend

    @property
    def name(self) -> str:
        """What the data is called in messages."""
        names = [source.name for source in self.sources]
        return names[0] if len(names) == 1 else f"data.mixture ({'; '.join(names)})"

    @property
    def form(self) -> LearntForm:
        """What all batches are given."""
        marks = [source.marks for source in self.sources if source.marks is not None]
        return LearntForm(bool(marks), any(one.is_packed for one in marks))

    def read(self, samples: npt.NDArray[np.int64]) -> TokenBatch:
        """The sequences of samples. Raises DataError for an id outside the vocabulary."""
        form = self.form
        parts = [
            (rows, source.read(windows, form)) for source, rows, windows in self._chosen(samples)
        ]
        return _joined(parts)

    def num_targets(self, samples: npt.NDArray[np.int64]) -> int:
        """Tokens that are learnt, of all these samples together."""
        return sum(source.num_targets(windows) for source, _, windows in self._chosen(samples))

    def is_learnt(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether anything is learnt of each of these samples; bool, as many."""
        found = np.ones(samples.shape, dtype=np.bool_)
        for source, rows, windows in self._chosen(samples):
            found[rows] = source.is_learnt(windows)
        return found

    def windows(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The numbers of the windows of samples, counted through the tokens of one source after the
        other."""
        found = np.zeros(samples.shape, dtype=np.int64)
        for source, rows, windows in self._chosen(samples):
            before = self.sources[: self.sources.index(source)]
            found[rows] = windows + sum(one.order.num_windows for one in before)
        return found

    def _chosen(
        self, samples: npt.NDArray[np.int64]
    ) -> Iterator[tuple[SourceWindows, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """The sources of samples: of each, which of the samples are its, and their windows."""
        sources, numbers = self.blend.choose(samples)
        for index in np.unique(sources).tolist():
            rows, source = np.flatnonzero(sources == index), self.sources[index]
            yield source, rows, source.order.train(numbers[rows])

    def epochs(self, num_read: int) -> tuple[float, ...]:
        """How often the first so many samples read each training window, by source."""
        pairs = zip(self.blend.counts(num_read), self.sources, strict=True)
        return tuple(count / source.order.num_train for count, source in pairs)

    def digest(self) -> str:
        """Hexadecimal name of the tokens, how they are cut, and how sources are mixed."""
        digests = [source.digest() for source in self.sources]
        if len(digests) == 1:
            return digests[0]
        identity = f"mixture {digests} {self.blend.weights}"
        return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()

    def describe(self, num_read: int) -> list[dict[str, object]]:
        """Figures of each source, where so many samples are read."""
        found: list[dict[str, object]] = []
        for source, share, epochs in zip(
            self.sources, self.blend.shares, self.epochs(num_read), strict=True
        ):
            found.append(
                {
                    "name": source.name,
                    "tokens": source.tokens.num_tokens,
                    "windows": source.order.num_windows,
                    "held_out": source.order.num_held_out,
                    "share": round(share, 6),
                    "epochs": round(epochs, 4),
                }
            )
        return found


def mixture_of(job: Job, sources: Sequence[SourceWindows]) -> Mixture:
    """The job's sources, mixed as it says, to the last of its decimals. Raises DataError where two
    of them are the same tokens."""
    _refuse_equal_tokens(sources)
    return Mixture(tuple(sources), Blend(whole_weights(_weights(job, sources))))


def _refuse_equal_tokens(sources: Sequence[SourceWindows]) -> None:
    """However they are called: a copy of a file, too, would train on what the other holds out."""
    known: dict[str, SourceWindows] = {}
    for source in sources:
        other = known.setdefault(source.tokens_digest, source)
        if other is not source:
            raise DataError(
                f"{source.place}: {source.name}: holds the same tokens as {other.place} "
                f"({other.name}), and what one of them holds out the other would train on; keep "
                "one of them, with the weight of both"
            )


def _weights(job: Job, sources: Sequence[SourceWindows]) -> list[Fraction]:
    if not job.data.mixture:
        return [Fraction(1)]
    found = []
    for entry, source in zip(job.data.mixture, sources, strict=True):
        if entry.epochs is not None:
            found.append(Fraction(str(entry.epochs)) * source.order.num_train)
        else:
            found.append(Fraction(str(entry.weight)))
    return found


def mixture_remarks(job: Job, mixture: Mixture) -> Remarks:
    """What is read of each source, and what of that may be a mistake."""
    notes, warnings = [], []
    num_read = job.steps * windows_of_step(job)
    each = zip(mixture.sources, mixture.blend.shares, mixture.epochs(num_read), strict=True)
    for source, share, epochs in each:
        order = source.order
        notes.append(
            f"{source.place}: {source.name}: {order.num_windows:,} windows, "
            f"{order.num_held_out:,} of them held out; {100 * share:.4g} % of what is read, "
            f"{epochs:.4g} epochs in {job.steps:,} steps"
        )
        if epochs == 0:
            text = f"{source.place}: not one window of {source.name} is read in all {job.steps:,}"
            warnings.append(f"{text} steps; raise its weight, or leave it out")
    told = _on_unlike_epochs if job.data.mixture[0].epochs is None else _on_asked_epochs
    return Remarks(tuple(notes), (*warnings, *told(job, mixture)))


def _on_unlike_epochs(job: Job, mixture: Mixture) -> Iterator[str]:
    epochs = mixture.epochs(job.steps * windows_of_step(job))
    by_epochs = sorted(zip(epochs, mixture.sources, strict=True), key=lambda pair: pair[0])
    (least, seldom), (most, often) = by_epochs[0], by_epochs[-1]
    if most > 1 and 0 < least * _MUCH_OFTENER <= most:
        yield (
            f"{often.place}: {often.name} is read {most:.3g} times over, {seldom.place} "
            f"{least:.3g} times; lower the weight of the former if its repetitions are not meant"
        )


def _on_asked_epochs(job: Job, mixture: Mixture) -> Iterator[str]:
    """Where the job's steps read more than the epochs that it names, or less."""
    a_step = windows_of_step(job)
    pairs = zip(job.data.mixture, mixture.sources, strict=True)
    wanted = sum((entry.epochs or 0.0) * source.order.num_train for entry, source in pairs)
    read, steps = job.steps * a_step, max(1, math.ceil(wanted / a_step))
    if abs(steps - job.steps) > max(1, steps / 100):
        more = "more" if read > wanted else "fewer"
        yield (
            f"data.mixture: its epochs are {wanted:,.0f} windows, but {job.steps:,} steps read "
            f"{read:,}, {more} than that, so each source is read {read / wanted:.3g} times as "
            f"often as it says; set steps: {steps}, or other epochs"
        )


def _joined(parts: Sequence[tuple[npt.NDArray[np.int64], TokenBatch]]) -> TokenBatch:
    """One batch of several sources' sequences. `parts`: the rows of each part, and the part."""
    if len(parts) == 1:
        return parts[0][1]
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))

    def together(values: Sequence[npt.NDArray[np.int64] | None]) -> npt.NDArray[np.int64] | None:
        found = [value for value in values if value is not None]
        return np.concatenate(found)[order] if found else None

    ids = np.concatenate([part.ids for _, part in parts])[order]
    labels = together([part.labels for _, part in parts])
    positions = together([part.positions for _, part in parts])
    return TokenBatch(ids, labels, positions, images=_joined_images(parts, order))


def _joined_images(
    parts: Sequence[tuple[npt.NDArray[np.int64], TokenBatch]], order: npt.NDArray[np.int64]
) -> ImageBatch | None:
    """Of all sequences, in the order of the rows. Parts without images have no token of one
    (`image_tokens`)."""
    tokens = [part.images.token for _, part in parts if part.images is not None]
    if not tokens:
        return None
    rows: list[tuple[Patches, ...]] = []
    for _, part in parts:
        rows += part.images.rows if part.images is not None else [()] * len(part.ids)
    ids = np.concatenate([part.ids for _, part in parts])[order]
    kinds = (ids == tokens[0]).astype(np.int64)
    return ImageBatch(tuple(rows[place] for place in order.tolist()), tokens[0], kinds)
