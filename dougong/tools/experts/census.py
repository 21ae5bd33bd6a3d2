"""Whether the experts of a folder or a checkpoint are all there: each with all of its tensors, none
a copy of another, none of zeros, every value finite. Imports no torch.

What a conversion or a resharding has lost looks like this: a number that is missing, an expert that
is there twice, a tensor that nobody has filled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dougong.checkpoint.disk import digest
from dougong.checkpoint.tensorfile import not_finite_words, num_not_finite
from dougong.tools.experts.contents import Contents, Expert, StoredPart
from dougong.tools.experts.matching import are, named

_THREADS = 2


@dataclass(frozen=True)
class Flaw:
    """`is_alike`: experts that are the same, as those of a model are that was made of a dense one's
    layers; else something is lost or damaged."""

    site: str
    words: str
    is_alike: bool = False

    def __str__(self) -> str:
        return f"{self.site}: {self.words}"


@dataclass(frozen=True)
class _Looked:
    """What of a tensor's bytes matters here."""

    digest: str
    is_zero: bool
    num_bad: int


def census(contents: Contents) -> list[Flaw]:
    """All that is amiss, layer by layer; every byte of the experts is read, but what a checkpoint
    has recorded of them. Raises CheckpointError where a file does not give what it should."""
    usual = _usual_count(contents)
    found: list[Flaw] = []
    with ThreadPoolExecutor(_THREADS) as threads:
        for site, experts in contents.sites.items():
            found += _numbers(site, experts, usual)
            found += _forms(site, experts)
            found += _values(site, experts, threads)
    return found


def census_words(contents: Contents, allow_alike: bool) -> str:
    """What is said where nothing is amiss."""
    if not contents.sites:
        return "it has no experts; every file is as its header says"
    alike = "" if allow_alike else "no two of a layer alike, "
    return f"{contents.num_experts}, {alike}none of zeros, every value finite"


def _usual_count(contents: Contents) -> int:
    """How many each layer should have: as the configuration says where it says one number, else as
    most layers have."""
    if len(contents.counts) == 1:
        return min(contents.counts)
    found = Counter(max(experts) + 1 for experts in contents.sites.values())
    return found.most_common(1)[0][0] if found else 0


def _numbers(site: str, experts: Mapping[int, Expert], usual: int) -> Iterator[Flaw]:
    missing = [number for number in range(usual) if number not in experts]
    beyond = [number for number in experts if number >= usual]
    if missing:
        yield Flaw(site, f"{named(missing)} of {usual} {are(missing)} not there")
    if beyond:
        yield Flaw(site, f"{named(beyond)} {are(beyond)} there, of {usual} in other layers")


def _forms(site: str, experts: Mapping[int, Expert]) -> Iterator[Flaw]:
    """Experts of a layer are alike in names, shapes and dtypes."""
    parts = set[str]().union(*experts.values())
    for part in sorted(parts):
        lacking = [number for number, expert in experts.items() if part not in expert]
        if lacking:
            yield Flaw(site, f"{named(lacking)} {_lack(lacking)} {part}")
        forms = {n: _form(expert[part]) for n, expert in experts.items() if part in expert}
        usual = Counter(forms.values()).most_common(1)[0][0]
        for number, form in forms.items():
            if form != usual:
                yield Flaw(site, f"{part} of expert {number} is {form}, of others {usual}")


def _form(stored: StoredPart) -> str:
    return f"{stored.dtype} {list(stored.shape)}"


def _values(
    site: str, experts: Mapping[int, Expert], threads: ThreadPoolExecutor
) -> Iterator[Flaw]:
    parts: dict[tuple[int, str], StoredPart] = {}
    for number, expert in experts.items():
        parts.update({(number, part): stored for part, stored in expert.items()})
    by_place = dict(zip(parts, threads.map(_look, parts.values()), strict=True))
    for (number, part), looked in by_place.items():
        if looked.num_bad:
            yield Flaw(site, f"{part} of expert {number}: {not_finite_words(looked.num_bad)}")
    yield from _zeros(site, experts, by_place)
    yield from _copies(site, experts, by_place)


def _look(stored: StoredPart) -> _Looked:
    if stored.digest:
        # A checkpoint's: it is not valid where a value is not finite.
        return _Looked(stored.digest, stored.digest == digest(bytes(stored.num_bytes)), 0)
    data = stored.read()
    num_bad = num_not_finite(data, stored.dtype)
    return _Looked(digest(data), data.count(0) == len(data), num_bad)


def _zeros(
    site: str, experts: Mapping[int, Expert], looked: Mapping[tuple[int, str], _Looked]
) -> Iterator[Flaw]:
    """Matrices of zeros; a bias may be."""
    by_part: dict[str, list[int]] = {}
    for (number, part), one in looked.items():
        if one.is_zero and len(experts[number][part].shape) > 1:
            by_part.setdefault(part, []).append(number)
    for part, numbers in by_part.items():
        yield Flaw(site, f"{part} of {named(numbers)} is zero everywhere")


def _copies(
    site: str, experts: Mapping[int, Expert], looked: Mapping[tuple[int, str], _Looked]
) -> Iterator[Flaw]:
    whole: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for number, expert in experts.items():
        its = tuple((part, looked[number, part].digest) for part in sorted(expert))
        whole.setdefault(its, []).append(number)
    for numbers in whole.values():
        if len(numbers) > 1:
            words = f"{named(numbers)} are the same, bit by bit"
            yield Flaw(site, words, is_alike=True)


def _lack(numbers: Sequence[int]) -> str:
    return "lack" if len(numbers) > 1 else "lacks"
