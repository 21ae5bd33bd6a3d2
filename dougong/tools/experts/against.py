"""Two Hugging Face folders, or checkpoints, compared: tensor by tensor, and expert by expert, also
where one has them in another order, form or dtype. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dougong.checkpoint.disk import digest
from dougong.tools.difference import Comparison, Difference, count_different
from dougong.tools.experts.contents import Contents, Expert, StoredPart, contents_of
from dougong.tools.experts.matching import ExpertDigests, match_words
from dougong.tools.experts.values import (
    as_they_lie,
    common_dtype,
    dtypes_of,
    in_dtype,
    leads,
    like,
    parts_of,
)
from dougong.ui.formatting import plural

_THREADS = 2

Layer = Mapping[int, Expert]


def compare(a: Path, b: Path) -> Comparison:
    """What differs, tensors of no expert first. Layers with experts are paired in their order,
    whatever they are called; of two dtypes the values are compared in the less exact one."""
    one, other = contents_of(a), contents_of(b)
    found = list(_compare_others(one, other))
    with ThreadPoolExecutor(_THREADS) as threads:
        found += _compare_layers(one, other, threads)
    words = f"{plural(len(one.others), 'other tensor')}, {one.num_experts}"
    rounded = sorted(_pairs_of_dtypes(one, other))
    if rounded:
        pairs = ", ".join(f"{x} and {y}" for x, y in rounded)
        words += f"; {pairs} compared in the less exact of both"
    return Comparison(words, tuple(found))


def _pairs_of_dtypes(one: Contents, other: Contents) -> set[tuple[str, str]]:
    """Those that differ, among tensors of one name or experts of one layer."""
    found = set()
    for name in one.others.keys() & other.others.keys():
        found.add((one.others[name].dtype, other.others[name].dtype))
    for mine, theirs in zip(one.sites.values(), other.sites.values(), strict=False):
        x, y = _dtype_of(mine), _dtype_of(theirs)
        found.add((x, y))
    return {(x, y) for x, y in found if x != y}


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
    dtype = common_dtype(a.dtype, b.dtype)
    x, y = (in_dtype(one.read(), one.dtype, dtype).tobytes() for one in (a, b))
    if len(x) != len(y):
        return Difference(None, name, note=f"{a.dtype} and {b.dtype}")
    num, largest = count_different(x, y, dtype)
    return Difference(None, name, num, math.prod(a.shape), largest) if num else None


# Experts.


def _compare_layers(
    one: Contents, other: Contents, threads: ThreadPoolExecutor
) -> Iterator[Difference]:
    if len(one.sites) != len(other.sites):
        numbers = f"{len(one.sites)} and {len(other.sites)}"
        yield Difference(None, "layers with experts", note=numbers)
    pairs = zip(one.sites.items(), other.sites.items(), strict=False)
    for (site, mine), (name, theirs) in pairs:
        label = site if site == name else f"{site} and {name}"
        for words in _compare_layer(mine, theirs, threads):
            yield Difference(None, label, note=words)


def _compare_layer(mine: Layer, theirs: Layer, threads: ThreadPoolExecutor) -> Iterator[str]:
    """What a layer's experts are, in the other's numbers."""
    first, second = parts_of(_first(mine)), parts_of(_first(theirs))
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
