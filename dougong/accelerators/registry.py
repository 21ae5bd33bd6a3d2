"""From a name in the job file to the accelerator it means."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points

from dougong.accelerators.base import Accelerator
from dougong.accelerators.cpu import Cpu
from dougong.accelerators.cuda import Cuda, Rocm
from dougong.accelerators.forms import unknown_names, wrong_facts
from dougong.accelerators.generic import GenericAccelerator
from dougong.accelerators.methods import broken_promises, called, held, wrong_methods
from dougong.accelerators.npu import Npu
from dougong.accelerators.vendors import Gcu, Mlu, Musa, Xpu
from dougong.errors import DeviceError
from dougong.offers import offered_class

GROUP = "dougong.accelerators"
BUILT_IN: tuple[type[Accelerator], ...] = (Cpu, Cuda, Rocm, Npu, Mlu, Musa, Gcu, Xpu)
_FACTS = ("name", "resource", "backend", "visible_devices_variable")
"""What every kind of device has to say of itself; a generic one its `device_type`, too."""


def accelerator_names() -> tuple[str, ...]:
    """Every name that `get_accelerator` knows: dougong's own, then those of installed packages."""
    built_in = tuple(kind.name for kind in BUILT_IN)
    offered = {point.name for point in entry_points(group=GROUP)}
    return built_in + tuple(sorted(offered - set(built_in)))


def is_accelerator(name: str) -> bool:
    """Whether `get_accelerator` knows the name; loads no other package."""
    is_built_in = any(kind.name == name for kind in BUILT_IN)
    return is_built_in or bool(entry_points(group=GROUP, name=name))


def meant_by(word: str) -> str | None:
    """The name that somebody means by a word that is none: in other letters, misspelt, or what
    people also call it, such as `gpu`; None where it is like none of them."""
    said = word.strip().lower()
    for kind in BUILT_IN:
        if said in kind.also_called:
            return kind.name
    names = {name.lower(): name for name in accelerator_names()}
    close = difflib.get_close_matches(said, names, 1)
    return names[close[0]] if close else None


def get_accelerator(name: str) -> Accelerator:
    """The accelerator called `name`; a package may add one as an entry point of the group
    `dougong.accelerators`.

    Raises DeviceError for a name that nobody offers, and for an offer that does not load.
    """
    for kind in BUILT_IN:
        if kind.name == name:
            return kind()
    points = tuple(entry_points(group=GROUP, name=name))
    if len(points) == 1:
        return _load(points[0])
    problem = "not known"
    if points:
        problem = f"offered by {_packages(points)}; uninstall all but one"
    meant = meant_by(name)
    guess = f" (did you mean {meant}?)" if meant and not points else ""
    raise DeviceError(
        f"accelerator {name or 'without a name'}: {problem}{guess}; known are "
        f"{', '.join(accelerator_names())}, and what packages offer"
    )


def check_claims(name: str) -> None:
    """Raises DeviceError where an installed package offers an accelerator under a name of
    dougong's own: which one a job means would depend on the machine."""
    points = tuple(entry_points(group=GROUP, name=name))
    if points and any(kind.name == name for kind in BUILT_IN):
        raise DeviceError(
            f"accelerator {name}: offered by {_packages(points)}, and it is dougong's own name; "
            "uninstall the package, or have its entry point and its class take another name"
        )


def _packages(points: Sequence[EntryPoint]) -> str:
    return " and ".join(f"{_package(point)} ({point.value})" for point in points)


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "a package"


def _load(point: EntryPoint) -> Accelerator:
    where = f"accelerator {point.name}: entry point {point.value}"
    base: type[Accelerator] = Accelerator  # type: ignore[type-abstract]
    kind = offered_class(point, base, "accelerator", "CONTRIBUTING.md")
    lacking = _lacking(kind)
    if lacking:
        raise DeviceError(
            f"{where} is not whole: it lacks {', '.join(lacking)}; add what is missing, or derive "
            "it from dougong.accelerators.generic.GenericAccelerator, which has every method "
            "(docs/accelerators.md)"
        )
    if issubclass(kind, GenericAccelerator):
        base = GenericAccelerator
    wrong = [
        *wrong_facts(kind),
        *unknown_names(kind, Accelerator, GenericAccelerator),
        *wrong_methods(kind, base),
        *broken_promises(kind, Accelerator),
        *_uncounted(kind),
    ]
    if wrong:
        raise DeviceError(
            f"{where} of {_package(point)}: {'; '.join(wrong)}; correct it in the package "
            "(docs/accelerators.md has each fact's form, dougong.accelerators.base each method's)"
        )
    if kind.name != point.name:
        raise DeviceError(
            f"{where} calls itself {kind.name}; give the entry point and the class one name"
        )
    whose = f"{where} of {_package(point)}"
    made: type[Accelerator] = held(kind, base, whose)
    return called(made, f"{whose}: {kind.__name__}()")


def _uncounted(kind: type[Accelerator]) -> Iterator[str]:
    """That a class says nothing by which its devices are counted: no machine would have any."""
    base = GenericAccelerator
    if not issubclass(kind, base) or kind.device_files:
        return
    if kind.names is base.names and kind.device_count is base.device_count:
        yield (
            "it states no device_files, and has no names() of its own, by which its devices are "
            "counted: every machine would have 0 of them"
        )


def _lacking(kind: type[Accelerator]) -> list[str]:
    """Methods and facts that a class has not."""
    facts = [*_FACTS, "device_type"] if issubclass(kind, GenericAccelerator) else _FACTS
    absent = [fact for fact in facts if not hasattr(kind, fact)]
    return [*(f"{method}()" for method in sorted(kind.__abstractmethods__)), *absent]
