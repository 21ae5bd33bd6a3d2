"""The tables of `docs/accelerators.md`, written from the kinds of device themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dougong.accelerators.base import Accelerator
from dougong.accelerators.forms import FACTS, GENERIC_FACTS, Fact
from dougong.accelerators.generic import GenericAccelerator
from dougong.accelerators.registry import BUILT_IN

_BEGIN = "<!-- tables: written by schema/update.py -->"
_END = "<!-- end of tables -->"
_BEGIN_FACTS = "<!-- facts: written by schema/update.py -->"
_END_FACTS = "<!-- end of facts -->"


def fill(page: str) -> str:
    """The page with fresh tables between their marks; ValueError when a mark is missing."""
    page = _between(page, _BEGIN, _END, tables())
    return _between(page, _BEGIN_FACTS, _END_FACTS, "\n".join(_facts()))


def _between(page: str, begin: str, end: str, text: str) -> str:
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def tables() -> str:
    """Markdown: what each kind is, what its workers find in their environment, what it computes at
    most."""
    return "\n".join([*_kinds(), "", *_environments(), "", *_rates()])


def _kinds() -> Iterator[str]:
    yield "| `accelerator` | devices | standing | in torch | collectives | Ray's resource | tool |"
    yield "|---|---|---|---|---|---|---|"
    for kind in BUILT_IN:
        collectives = f"`{kind.backend}`"
        if kind.interface_variable:
            collectives += f", interface by `{kind.interface_variable}`"
        resource = f"`{kind.resource}`" if kind.resource else "none: workers share the machine"
        if kind.visible_devices_variable:
            resource += f", `{kind.visible_devices_variable}`"
        tool = f"`{kind.tool}`" if kind.tool else ""
        cells = (f"`{kind.name}`", kind.title, kind.standing, _in_torch(kind), collectives)
        yield _row(*cells, resource, tool)


def _in_torch(kind: type[Accelerator]) -> str:
    if not issubclass(kind, GenericAccelerator):
        return "`cpu`"
    how = f"a build with `torch.version.{kind.build}`"
    if kind.package:
        how = f"package `{kind.package}`"
    return f"`{kind.device_type}`, {how}"


def _environments() -> Iterator[str]:
    yield "| | always | for `determinism: layout` and `run` | set unless you do | health | fused |"
    yield "|---|---|---|---|---|---|"
    for kind in BUILT_IN:
        defaults = _assignments((one.variable, one.value) for one in kind.defaults)
        health = "yes" if kind.tells_health else ""
        files = [f"`ops/{module.replace('.', '/')}.py`" for module in kind.fused_operators]
        yield _row(f"`{kind.name}`", *_settings(kind), defaults, health, ", ".join(files))


def _settings(kind: type[Accelerator]) -> tuple[str, str]:
    """What is set always, and for a deterministic job."""
    if not issubclass(kind, GenericAccelerator):
        return "", "MKL's strict mode, where MKL runs"
    switches = [f"`torch.{place} = {value}`" for place, value in kind.exact_switches.items()]
    exact = [_assignments(kind.deterministic_environment.items()), *switches]
    return _assignments(kind.environment.items()), " ".join(exact)


def _rates() -> Iterator[str]:
    yield "| | model | TFLOP/s at most | source |"
    yield "|---|---|---|---|"
    for kind in BUILT_IN:
        for rates in kind.peak_rates:
            each = ", ".join(f"{dtype} {rate / 1e12:g}" for dtype, rate in rates.per_s.items())
            yield _row(f"`{kind.name}`", rates.model, each, rates.source)


def _facts() -> Iterator[str]:
    """What a class of one's own states, and in which form."""
    yield "| fact | form | where it is left out | meaning |"
    yield "|---|---|---|---|"
    for fact in (*FACTS, *GENERIC_FACTS):
        yield _row(f"`{fact.name}`", fact.form.words, _default(fact), fact.meaning)


def _default(fact: Fact) -> str:
    if not hasattr(GenericAccelerator, fact.name):
        return "refused"
    value = getattr(GenericAccelerator, fact.name)
    if fact.name == "arithmetic_variables":
        return "`base.HOST_VARIABLES`"
    return f"`{value!r}`" if value or value is False or value is None else "none"


def _assignments(pairs: Iterable[tuple[str, str]]) -> str:
    return " ".join(f"`{name}={value}`" for name, value in pairs)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.strip() for cell in cells) + " |"
