"""The windows of one source of tokens. Imports no torch."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dougong.data.document_starts import DocumentStarts
from dougong.data.samples.image_batch import ImageBatch
from dougong.data.samples.marks import TokenMarks
from dougong.data.samples.order import WindowOrder, num_held_out
from dougong.data.token_files import TokenFile
from dougong.job.schema import Job
from dougong.remarks import NOTHING, Remarks


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """What a lane reads at once. `ids`: int64 [sequences, tokens]; `labels`: the same where they
    are learnt, IGNORED elsewhere (None: all of them are); `positions`: of each in its own document
    (None: counted through the sequence). `num_targets`: by what the sum of its tokens' losses is
    divided, so that the mean over all micro-batches weighs every target of the step the same.
    `padding`: bool, as `ids`, which of them only fill a sequence up (None: none does); `images`: of
    its sequences (None: they have none)."""

    ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64] | None = None
    positions: npt.NDArray[np.int64] | None = None
    num_targets: float | None = None
    padding: npt.NDArray[np.bool_] | None = None
    images: ImageBatch | None = None


@dataclass(frozen=True)
class LearntForm:
    """What the micro-batches of a job are given beside their ids: the same for all of them, whoever
    their sequences come from. `has_positions`: those in documents; `has_labels`: what is learnt."""

    has_labels: bool
    has_positions: bool


@dataclass(frozen=True, eq=False)
class SourceWindows:
    """A stream of tokens, cut into windows of `sequence_length` ids. `place`: its key in the job;
    `vocab_size`: the model's, None where ids are not checked."""

    place: str
    name: str
    tokens: TokenFile
    vocab_size: int | None
    sequence_length: int
    order: WindowOrder
    marks: TokenMarks | None = None

    def read(self, windows: npt.NDArray[np.int64], form: LearntForm) -> TokenBatch:
        """These windows, in this order. Raises DataError for an id outside the vocabulary."""
        ids = self._ids(windows)
        if not form.has_labels:
            return TokenBatch(ids)
        batch = TokenBatch(ids, ids)
        if self.marks is not None:
            labels, positions = self.marks.labels_and_positions(ids, windows)
            padding = self.marks.padding(windows, self.sequence_length)
            images = self.marks.images_of(ids, windows)
            batch = TokenBatch(ids, labels, positions, padding=padding, images=images)
        if batch.positions is None and form.has_positions:
            positions = np.tile(np.arange(self.sequence_length), (len(ids), 1))
            batch = replace(batch, positions=positions)
        return batch

    def num_targets(self, windows: npt.NDArray[np.int64]) -> int:
        """Tokens that are learnt, of all these windows together."""
        if self.marks is None:
            return int(windows.size) * (self.sequence_length - 1)
        return self.marks.num_targets(windows)

    def is_learnt(self, windows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether anything is learnt of each of these windows; bool, as many. Sequences of chats
        are kept only where something is."""
        if isinstance(self.marks, DocumentStarts):
            return self.marks.targets(windows) > 0
        return np.ones(windows.shape, dtype=np.bool_)

    def digest(self) -> str:
        """Hexadecimal name of the tokens and of how they are cut."""
        identity = f"{self.tokens_digest} {self.sequence_length} {self.order.num_held_out}"
        if self.marks is not None:
            identity = f"{identity} {self.marks.digest()}"
        return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()

    @functools.cached_property
    def tokens_digest(self) -> str:
        """Digest of the token stream, taken once."""
        return self.tokens.digest()

    def _ids(self, windows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        starts = (windows * self.sequence_length).tolist()
        if self.vocab_size is not None:
            for start in starts:
                self.tokens.check(start, self.sequence_length, self.vocab_size)
        return np.stack([self.tokens.read(start, self.sequence_length) for start in starts])


def windows_of_step(job: Job) -> int:
    """How many windows one step reads, on all lanes."""
    return job.batch.lanes * job.batch.microbatches * job.batch.microbatch_size


def held_out_of(job: Job, num_windows: int) -> int:
    """How many of so many windows are never trained on."""
    validation = job.data.validation
    return num_held_out(num_windows, validation.fraction) if validation else 0


def num_train_windows(job: Job, num_tokens: int) -> int:
    """How many windows of so many tokens are trained on."""
    num_windows = num_tokens // job.data.sequence_length
    return num_windows - held_out_of(job, num_windows)


def reread_remarks(job: Job, name: str, num_tokens: int, share: float = 1.0) -> Remarks:
    """A warning where one step meets the same window more than once. `share`: of the windows of a
    step that are this source's."""
    num_train, asked = num_train_windows(job, num_tokens), windows_of_step(job) * share
    if num_train < 1 or asked <= num_train:
        return NOTHING
    of_share = "" if share == 1.0 else f" x {share:.3g}"
    text = (
        f"{name}: {num_train} {_called(job)} to train on, but one step reads "
        f"{round(asked, 2):.10g} (lanes x microbatches x microbatch_size{of_share}), each "
        f"{asked / num_train:.3g} times: {_remedy(job)} batch{_or_length(job)}"
    )
    return Remarks(warnings=(text,))


def find_shortage(job: Job, name: str, num_tokens: int) -> str | None:
    """What so many tokens are too few for, in words; None where they are enough. `name`: of the
    data."""
    length, validation = job.data.sequence_length, job.data.validation
    num_windows = num_tokens // length
    held_out = held_out_of(job, num_windows)
    have = (
        f"{name}: {num_tokens} tokens give {num_windows} {_called(job)} of {length}, "
        f"{held_out} of them held out"
    )
    if num_windows - held_out < 1:
        return (
            f"{have}; at least one must be left to train on: {_remedy(job)} "
            f"data.validation.fraction{_or_length(job)}"
        )
    batches = validation.batches * job.batch.lanes if validation else 0
    need = batches * job.batch.microbatch_size
    if need > held_out:
        return (
            f"{have}; data.validation.batches x lanes x microbatch_size = {need} are asked for: "
            "raise data.validation.fraction, or lower data.validation.batches"
        )
    return None


def _called(job: Job) -> str:
    """What a person calls windows of a job's data."""
    return "windows" if job.data.chat is None else "sequences"


def _remedy(job: Job) -> str:
    return "give more text, or lower" if job.data.chat is None else "give more chats, or lower"


def _or_length(job: Job) -> str:
    """Shorter sequences are more of them, but for chats, each of which is one."""
    return " or data.sequence_length" if job.data.chat is None or job.data.packing else ""
