"""Which layers with experts of two folders are each other's. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dougong.tools.experts.absent import layer_of

Pair = tuple[str | None, str | None]
"""Sites of A and B; None: the other has none."""


def paired(mine: Sequence[str], theirs: Sequence[str]) -> list[Pair]:
    """Those of one name; of the others, where there are as many, those that follow each other, else
    those of one layer's number. In A's order; what only B has comes last."""
    others = dict(_of_other_names(mine, theirs))
    pairs: list[Pair] = [(site, site if site in theirs else others.get(site)) for site in mine]
    taken = {other for _, other in pairs}
    pairs += [(None, site) for site in theirs if site not in taken]
    return pairs


def _of_other_names(mine: Sequence[str], theirs: Sequence[str]) -> Iterator[tuple[str, str]]:
    left = [site for site in mine if site not in theirs]
    right = [site for site in theirs if site not in mine]
    if len(left) == len(right):
        yield from zip(left, right, strict=True)
        return
    by_number = {_number_of(site): site for site in right}
    is_known = len(by_number) == len(right) and len({_number_of(site) for site in left}) == len(
        left
    )
    for site in left if is_known else []:
        if _number_of(site) in by_number:
            yield site, by_number[_number_of(site)]


def _number_of(site: str) -> str:
    return layer_of(site).rpartition(".")[2]
