"""Whether the experts of a folder or a checkpoint are all there: each with all of its tensors, none
a copy of another, none of zeros, every value of an expert finite. Imports no torch.

What a conversion or a resharding has lost looks like this: a number that is missing, an expert that
is there twice, a tensor that nobody has filled.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dougong.checkpoint.disk import digest
from dougong.checkpoint.tensorfile import not_finite_words
from dougong.job.rule import TEXT_PART
from dougong.tools.experts.absent import Flaw, absent, doubles
from dougong.tools.experts.contents import Contents, Expert, StoredPart
from dougong.tools.experts.matching import are, named
from dougong.tools.experts.numbers import is_a_scale, is_zero, num_bad
from dougong.tools.experts.places import counts_said

_THREADS = 2
_TOWER = re.compile(r"vision|visual|audio|tower")
"""What is not the model of the text, and has experts of its own."""


@dataclass(frozen=True)
class _Looked:
    """What of a tensor's bytes matters here."""

    digest: str
    is_zero: bool
    num_bad: int


def census(contents: Contents) -> list[Flaw]:
    """All that is amiss, layer by layer; every byte of the experts is read, but what a checkpoint
    has recorded of them. Raises CheckpointError where a file does not give what it should."""
    found: list[Flaw] = [*absent(contents), *doubles(contents)]
    with ThreadPoolExecutor(_THREADS) as threads:
        for site, experts in contents.sites.items():
            found += _numbers(site, experts, _usual_count(site, contents))
            found += _forms(site, experts)
            found += _values(site, experts, threads)
    return found


def census_words(contents: Contents, allow_alike: bool) -> str:
    """What is said where nothing is amiss."""
    if not contents.sites:
        return "it has no experts; every file is as its header says"
    alike = "" if allow_alike else "no two of a layer alike, "
    return f"{contents.num_experts}, {alike}none of zeros, every value of an expert finite"


def _usual_count(site: str, contents: Contents) -> int:
    """How many a layer should have: as the configuration says of the text, else of anything where
    that is one number, else as most layers have."""
    said = next(counts_said(contents.config), {})
    is_of_text = TEXT_PART in contents.config or len(list(counts_said(contents.config))) == 1
    if len(set(said.values())) == 1 and is_of_text and not _TOWER.search(site):
        return min(said.values())
    alike = [
        name for name in contents.sites if bool(_TOWER.search(name)) == bool(_TOWER.search(site))
    ]
    found = Counter(max(contents.sites[name]) + 1 for name in alike)
    return found.most_common(1)[0][0]


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
    names = [part for _, part in parts]
    by_place = dict(zip(parts, threads.map(_look, parts.values(), names), strict=True))
    for (number, part), looked in by_place.items():
        if looked.num_bad:
            yield Flaw(site, f"{part} of expert {number}: {not_finite_words(looked.num_bad)}")
    yield from _zeros(site, experts, by_place)
    yield from _copies(site, experts, by_place)


def _look(stored: StoredPart, part: str) -> _Looked:
    if stored.digest:
        # A checkpoint's: it is not valid where a value is not finite.
        return _Looked(stored.digest, stored.digest == digest(bytes(stored.num_bytes)), 0)
    data = stored.read()
    bad = num_bad(data, stored.dtype, part)
    return _Looked(digest(data), is_zero(data, stored.dtype, part), bad)


def _zeros(
    site: str, experts: Mapping[int, Expert], looked: Mapping[tuple[int, str], _Looked]
) -> Iterator[Flaw]:
    """Matrices and scales of zeros; a bias may be."""
    by_part: dict[str, list[int]] = {}
    for (number, part), one in looked.items():
        is_of_weight = len(experts[number][part].shape) > 1 or is_a_scale(part)
        if one.is_zero and is_of_weight:
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
