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
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dougong.control.cache_place import cache_place
from dougong.data.chats.image_form import open_image_form
from dougong.data.chats.images import ImageBatch
from dougong.data.chats.store import ChatForm, Marks, open_chats
from dougong.data.chats.template import open_chat_tokenizer
from dougong.data.dataset import dataset_rows
from dougong.data.megatron import open_megatron
from dougong.data.text import Corpus, text_files
from dougong.data.token_cache import open_corpus
from dougong.data.token_files import WHOLE_TOKENS, TokenFile, open_tokens
from dougong.data.tokenizer import Tokenizer, open_tokenizer
from dougong.errors import DataError
from dougong.job import schema as spec
from dougong.job.parts.data import Data, Validation
from dougong.job.tokenizer_choice import tokenizer_of
from dougong.ops.counter_rng import Permutation
from dougong.remarks import NOTHING, Remarks

# The held-out windows do not follow the job's seed: runs with other seeds are measured on the
# same text.
_HELD_OUT_SEED = 0


@dataclass(frozen=True, eq=False)
class _Opened:
    """A source of tokens, by its name, with what is told of it once."""

    name: str
    tokens: TokenFile
    remarks: Remarks = NOTHING
    marks: Marks | None = None


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """What a lane reads at once. `ids`: int64 [sequences, tokens]; `labels`: the same where they
    are learnt, IGNORED elsewhere (None: all of them are); `positions`: of each in its own document
    (None: counted through the sequence). `num_targets`: by what the sum of its tokens' losses is
    divided, so that the mean over all micro-batches weighs every target of the step the same.
    `images`: of its sequences (None: they have none)."""

    ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64] | None = None
    positions: npt.NDArray[np.int64] | None = None
    num_targets: float | None = None
    images: ImageBatch | None = None


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """The tokens of one job. Equal jobs over equal tokens read equal batches."""

    name: str
    tokens: TokenFile
    vocab_size: int | None
    sequence_length: int
    lanes: int
    microbatches: int
    microbatch_size: int
    steps: int
    seed: int
    validation: Validation | None
    remarks: Remarks = NOTHING
    marks: Marks | None = None

    @property
    def num_windows(self) -> int:
        """Windows in all, held-out ones included."""
        return self.tokens.num_tokens // self.sequence_length

    @property
    def num_held_out(self) -> int:
        """Windows that are never trained on."""
        return num_held_out(self.num_windows, self.validation)

    @property
    def num_train(self) -> int:
        """Windows of one epoch."""
        return self.num_windows - self.num_held_out

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
        """`batch`, with what is known of its tokens."""
        assert step >= 1, f"steps count from 1, not {step}"
        assert 0 <= lane < self.lanes, f"lane {lane} of {self.lanes}"
        assert 0 <= microbatch < self.microbatches, (
            f"micro-batch {microbatch} of {self.microbatches}"
        )
        windows = self._train_windows(self._samples(step, lane, microbatch))
        if self.marks is None:
            return TokenBatch(self._rows(windows))
        count = self._num_targets(step) / (self.lanes * self.microbatches)
        return self._marked(windows, self.marks, count)

    def samples(self, step: int) -> tuple[int, int]:
        """The numbers of the first and the last sample of a step."""
        count = self.lanes * self.microbatches * self.microbatch_size
        return (step - 1) * count, step * count - 1

    def windows(self, step: int, lane: int, microbatch: int) -> list[int]:
        """The numbers of the windows that a micro-batch reads, counted through the tokens."""
        samples = self._samples(step, lane, microbatch)
        return [int(window) for window in self._train_windows(samples)]

    def validation_batch(self, index: int) -> npt.NDArray[np.int64]:
        """Held-out ids, int64 [microbatch_size, sequence_length].

        `index` counts from 0 to num_validation_batches - 1.
        """
        return self.validation_microbatch(index).ids

    def validation_microbatch(self, index: int) -> TokenBatch:
        """`validation_batch`, with what is known of its tokens."""
        assert 0 <= index < self.num_validation_batches, (
            f"validation batch {index} of {self.num_validation_batches}"
        )
        windows = self._order(index * self.microbatch_size + np.arange(self.microbatch_size))
        if self.marks is None:
            return TokenBatch(self._rows(windows))
        every = self._order(np.arange(self.num_validation_batches * self.microbatch_size))
        count = self.marks.num_targets(every) / self.num_validation_batches
        return self._marked(windows, self.marks, count)

    def _marked(
        self, windows: npt.NDArray[np.int64], marks: Marks, num_targets: float
    ) -> TokenBatch:
        ids = self._rows(windows)
        labels, positions = marks.labels_and_positions(ids, windows)
        return TokenBatch(ids, labels, positions, num_targets, marks.images_of(ids, windows))

    @functools.cached_property
    def _num_targets(self) -> Callable[[int], int]:
        """Targets of a step, on all lanes; each micro-batch of a step asks for the same one."""

        @functools.lru_cache(maxsize=2)
        def count(step: int) -> int:
            first, last = self.samples(step)
            assert self.marks is not None
            return self.marks.num_targets(self._train_windows(np.arange(first, last + 1)))

        return count

    def _samples(self, step: int, lane: int, microbatch: int) -> npt.NDArray[np.int64]:
        first = ((step - 1) * self.lanes + lane) * self.microbatches + microbatch
        return first * self.microbatch_size + np.arange(self.microbatch_size)

    def digest(self) -> str:
        """Hexadecimal name of the tokens and of how they are cut.

        Runs with other digests read other data.
        """
        identity = f"{self.tokens_digest} {self.sequence_length} {self.num_held_out}"
        if self.marks is not None:
            identity = f"{identity} {self.marks.digest()}"
        return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()

    def describe(self) -> dict[str, object]:
        """Figures for the plan and the report.

        `epochs` is how often the whole job reads each training window.
        """
        read = self.steps * self.lanes * self.microbatches * self.microbatch_size
        return {
            "name": self.name,
            "tokens": self.tokens.num_tokens,
            "windows": self.num_windows,
            "held_out": self.num_held_out,
            "epochs": round(read / self.num_train, 4),
            "digest": self.digest(),
        }

    @functools.cached_property
    def tokens_digest(self) -> str:
        """Digest of the token stream, taken once."""
        return self.tokens.digest()

    @functools.cached_property
    def _order(self) -> Permutation:
        """The fixed order of all windows whose first `num_held_out` places are held out."""
        return Permutation(self.num_windows, _HELD_OUT_SEED, "held out")

    def _train_windows(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The windows of samples, which may belong to two epochs.

        Two permutations, one after the other: the epoch's orders the places 0 .. num_train - 1, the
        fixed one says which window has which place. Its first `num_held_out` places are skipped, so
        what is held out is never met, in whatever order an epoch goes.
        """
        epochs, places = np.divmod(samples, self.num_train)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            places[here] = Permutation(self.num_train, self.seed, "epoch", epoch)(places[here])
        return self._order(self.num_held_out + places)

    def _rows(self, windows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        starts = (windows * self.sequence_length).tolist()
        if self.vocab_size is not None:
            for start in starts:
                self.tokens.check(start, self.sequence_length, self.vocab_size)
        return np.stack([self.tokens.read(start, self.sequence_length) for start in starts])


def num_held_out(num_windows: int, validation: Validation | None) -> int:
    """How many of so many windows are never trained on."""
    return math.ceil(num_windows * validation.fraction) if validation else 0


def open_data(job: spec.Job, vocab_size: int | None, cache: Path | None = None) -> TokenWindows:
    """Open what the `data:` of a job names. `vocab_size` is the model's; None leaves ids unchecked.

    Text is tokenised once into `cache` (default: `tokens` in the job's cache). Raises DataError for
    data that is missing, empty, cut short, or too small for one step's windows, and for ids outside
    the vocabulary (checked at once in files of up to 64 Mi tokens, else when they are read).
    """
    place = cache_place(job.cache)
    if cache is None and place is not None:
        cache = place / "tokens"
    opened = _open_tokens(job, vocab_size, cache)
    tokens = opened.tokens
    data = TokenWindows(
        name=opened.name,
        tokens=tokens,
        vocab_size=vocab_size,
        sequence_length=job.data.sequence_length,
        lanes=job.batch.lanes,
        microbatches=job.batch.microbatches,
        microbatch_size=job.batch.microbatch_size,
        steps=job.steps,
        seed=job.seed,
        validation=job.data.validation,
        marks=opened.marks,
        remarks=opened.remarks + reread_remarks(job, opened.name, tokens.num_tokens),
    )
    shortage = find_shortage(job, opened.name, tokens.num_tokens)
    if shortage is not None:
        raise DataError(shortage)
    if vocab_size is not None and tokens.num_tokens <= WHOLE_TOKENS:
        tokens.check_all(vocab_size)
    return data


def vocabulary(job: spec.Job) -> int | None:
    """The tokenizer's number of ids for a model that names none; None where it names its own, or
    where the data is tokens already, since their tokenizer is not known."""
    if job.model.path is not None or "vocab_size" in job.model.config:
        return None
    tokenizer = job_tokenizer(job)
    return None if tokenizer is None else tokenizer.num_ids


def job_tokenizer(job: spec.Job) -> Tokenizer | None:
    """The tokenizer of a job's text; None where the data is tokens already. Raises DataError."""
    name = tokenizer_of(job)
    return None if name is None else open_tokenizer(name, job.data.bos)


def open_text(section: Data) -> Corpus:
    """The documents of a job whose data is text. Raises DataError."""
    if section.text is not None:
        return text_files(section.text)
    assert section.dataset is not None, "the schema asks for one source of data"
    return dataset_rows(section.dataset, section.column)


def windows_of_step(job: spec.Job) -> int:
    """How many windows one step reads, on all lanes."""
    return job.batch.lanes * job.batch.microbatches * job.batch.microbatch_size


def num_train_windows(job: spec.Job, num_tokens: int) -> int:
    """How many windows of so many tokens are trained on."""
    num_windows = num_tokens // job.data.sequence_length
    return num_windows - num_held_out(num_windows, job.data.validation)


def reread_remarks(job: spec.Job, name: str, num_tokens: int) -> Remarks:
    """A warning where one step meets the same window more than once."""
    num_train, asked = num_train_windows(job, num_tokens), windows_of_step(job)
    if num_train < 1 or asked <= num_train:
        return NOTHING
    text = (
        f"{name}: {num_train} windows to train on, but one step reads {asked} (lanes x "
        f"microbatches x microbatch_size), each {asked / num_train:.3g} times: give more text, or "
        "lower batch or data.sequence_length"
    )
    return Remarks(warnings=(text,))


def find_shortage(job: spec.Job, name: str, num_tokens: int) -> str | None:
    """What so many tokens are too few for, in words; None where they are enough. `name`: of the
    data."""
    length, validation = job.data.sequence_length, job.data.validation
    num_windows = num_tokens // length
    held_out = num_held_out(num_windows, validation)
    have = (
        f"{name}: {num_tokens} tokens give {num_windows} windows of {length}, {held_out} of them "
        "held out"
    )
    if num_windows - held_out < 1:
        return (
            f"{have}; at least one must be left to train on: give more text, or lower "
            "data.sequence_length or data.validation.fraction"
        )
    batches = validation.batches * job.batch.lanes if validation else 0
    need = batches * job.batch.microbatch_size
    if need > held_out:
        return (
            f"{have}; data.validation.batches x lanes x microbatch_size = {need} are asked for: "
            "raise data.validation.fraction, or lower data.validation.batches"
        )
    return None


def _open_tokens(job: spec.Job, vocab_size: int | None, cache: Path | None) -> _Opened:
    section = job.data
    if section.tokens is not None:
        path = Path(section.tokens).expanduser()
        return _Opened(section.tokens, open_tokens(path, vocab_size))
    if section.megatron is not None:
        return _Opened(section.megatron, open_megatron(Path(section.megatron).expanduser()))
    tokenizer = job_tokenizer(job)
    assert tokenizer is not None, "text has a tokenizer"
    if section.chat is not None:
        template = open_chat_tokenizer(tokenizer.name, tokenizer.digest)
        length = section.sequence_length
        images = functools.partial(open_image_form, job, template)
        form = ChatForm(template, tokenizer.num_ids, length, section.packing, images)
        chats = open_chats(section.chat, form, cache)
        return _Opened(chats.name, chats.tokens, chats.remarks, chats.marks)
    corpus = open_text(section)
    name = f"{corpus.name} ({tokenizer.name})"
    return _Opened(name, open_corpus(corpus, tokenizer, cache), corpus.remarks)
