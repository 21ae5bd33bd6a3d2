"""Two Hugging Face folders, or checkpoints, compared: tensor by tensor, and expert by expert, also
where one has them in another order, form or dtype. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dougong.checkpoint.disk import digest
from dougong.tools.difference import Comparison, Difference, count_different
from dougong.tools.experts.absent import doubles
from dougong.tools.experts.contents import Contents, Expert, StoredPart, contents_of
from dougong.tools.experts.grouping import grouped
from dougong.tools.experts.matching import ExpertDigests, match_words
from dougong.tools.experts.pairing import paired
from dougong.tools.experts.values import (
    as_they_lie,
    clash_words,
    clashes,
    common_dtype,
    dtypes_of,
    in_dtype,
    is_comparable,
    leads,
    like,
    parts_of,
)
from dougong.ui.formatting import plural

_THREADS = 2
_WORDS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

Layer = Mapping[int, Expert]


def compare(a: Path, b: Path) -> Comparison:
    """What differs, experts first, and what is alike in many layers said once. Layers with experts
    are paired by their names, those of other names in their order; of two dtypes the values are
    compared in the less exact one, and those of quantised tensors as they read."""
    one, other = contents_of(a, by_value=True), contents_of(b, by_value=True)
    found = [*_told_twice(one), *_told_twice(other)]
    with ThreadPoolExecutor(_THREADS) as threads:
        found += _compare_layers(one, other, threads)
    found += _compare_others(one, other)
    words = f"{plural(len(one.others), 'other tensor')}, {one.num_experts}"
    rounded = _pairs_of_dtypes(one, other)
    if rounded:
        pairs = ", ".join(f"{x} and {y}" for x, y in sorted(rounded))
        words += f"; {pairs} compared in the less exact of both"
    is_quantised = any(stored.quantised for stored in [*_stored(one), *_stored(other)])
    if is_quantised:
        words += "; quantised tensors by the values that they read as"
    return Comparison(words, tuple(grouped(found)), alike=_alike(rounded, is_quantised))


def _alike(rounded: set[tuple[str, str]], is_quantised: bool) -> str:
    """How equal two are that are: to the bits of what they were compared in."""
    dtypes = {common_dtype(x, y) for x, y in rounded}
    words = [_WORDS[dtype] for dtype in sorted(dtypes) if dtype in _WORDS]
    if not words and not is_quantised:
        return "equal, bit by bit"
    return f"equal in {' and '.join(words) or _WORDS['F32']}"


def _told_twice(contents: Contents) -> Iterator[Difference]:
    for flaw in doubles(contents):
        yield Difference(None, flaw.site, note=f"{flaw.words} (in {contents.path})")


def _stored(contents: Contents) -> Iterator[StoredPart]:
    yield from contents.others.values()
    for experts in contents.sites.values():
        for expert in experts.values():
            yield from expert.values()


def _pairs_of_dtypes(one: Contents, other: Contents) -> set[tuple[str, str]]:
    """Those that differ and are compared, among tensors of one name or experts of one layer."""
    found = set()
    for name in one.others.keys() & other.others.keys():
        found.add((one.others[name].dtype, other.others[name].dtype))
    for mine, theirs in paired(list(one.sites), list(other.sites)):
        if mine is not None and theirs is not None:
            found.add((_dtype_of(one.sites[mine]), _dtype_of(other.sites[theirs])))
    return {(x, y) for x, y in found if x != y and is_comparable(x, y)}


def _dtype_of(layer: Layer) -> str:
    expert = next(iter(layer.values()))
    return next(iter(expert.values())).dtype


# What is no expert's.


def _compare_others(one: Contents, other: Contents) -> Iterator[Difference]:
    for name, stored in one.others.items():
        if name not in other.others:
            yield Difference(None, name, note=f"only in {one.path}")
            continue
        difference = _compare_tensor(name, stored, other.others[name])
        if difference is not None:
            yield difference
    for name in other.others:
        if name not in one.others:
            yield Difference(None, name, note=f"only in {other.path}")


def _compare_tensor(name: str, a: StoredPart, b: StoredPart) -> Difference | None:
    if a.shape != b.shape:
        return Difference(None, name, note=f"{list(a.shape)} and {list(b.shape)}")
    if not is_comparable(a.dtype, b.dtype):
        return Difference(None, name, note=clash_words(a.dtype, b.dtype))
    dtype = common_dtype(a.dtype, b.dtype)
    x, y = (in_dtype(one.read(), one.dtype, dtype).tobytes() for one in (a, b))
    num, largest = count_different(x, y, dtype)
    return Difference(None, name, num, math.prod(a.shape), largest) if num else None


# Experts.


def _compare_layers(
    one: Contents, other: Contents, threads: ThreadPoolExecutor
) -> Iterator[Difference]:
    for site, name in paired(list(one.sites), list(other.sites)):
        if site is None or name is None:
            where = other.path if site is None else one.path
            yield Difference(None, str(site or name), note=f"its experts are only in {where}")
            continue
        label = site if site == name else f"{site} and {name}"
        for words in _compare_layer(one.sites[site], other.sites[name], threads):
            yield Difference(None, label, note=words)


def _compare_layer(mine: Layer, theirs: Layer, threads: ThreadPoolExecutor) -> Iterator[str]:
    """What a layer's experts are, in the other's numbers."""
    first, second = parts_of(_first(mine)), parts_of(_first(theirs))
    clash = clashes(first, second)
    if clash:
        return iter((clash,))
    dtypes, mine_lead = dtypes_of(first, second), leads(first, second)
    a = _digests(mine, None if mine_lead else second, dtypes, threads)
    b = _digests(theirs, first if mine_lead else None, dtypes, threads)
    return match_words(a, b)


def _digests(
    layer: Layer,
    lead: Mapping[str, StoredPart] | None,
    dtypes: Mapping[str, str],
    threads: ThreadPoolExecutor,
) -> dict[int, ExpertDigests]:
    """Of each expert's tensors, as they lie, or as those of the side that leads."""

    def of(expert: Expert) -> ExpertDigests:
        parts = parts_of(expert)
        readers = as_they_lie(parts, dtypes) if lead is None else like(parts, lead, dtypes)
        return tuple((name, digest(readers[name]().tobytes())) for name in sorted(readers))

    return dict(zip(layer, threads.map(of, layer.values()), strict=True))


def _first(layer: Layer) -> Expert:
    return next(iter(layer.values()))
