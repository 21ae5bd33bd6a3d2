"""From a name in the job file to the accelerator it means."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from dougong.accelerators.base import Accelerator
from dougong.accelerators.cpu import Cpu
from dougong.accelerators.cuda import Cuda
from dougong.accelerators.npu import Npu
from dougong.errors import DeviceError

GROUP = "dougong.accelerators"
_BUILT_IN: tuple[type[Accelerator], ...] = (Cpu, Cuda, Npu)


def accelerator_names() -> tuple[str, ...]:
    """Every name that `get_accelerator` knows: dougong's own, then those of installed packages."""
    built_in = tuple(kind.name for kind in _BUILT_IN)
    offered = {point.name for point in entry_points(group=GROUP)}
    return built_in + tuple(sorted(offered - set(built_in)))


def is_accelerator(name: str) -> bool:
    """Whether `get_accelerator` knows the name; loads no other package."""
    is_built_in = any(kind.name == name for kind in _BUILT_IN)
    return is_built_in or bool(entry_points(group=GROUP, name=name))


def get_accelerator(name: str) -> Accelerator:
    """The accelerator called `name`; a package may add one as an entry point of the group
    `dougong.accelerators`.

    Raises DeviceError for a name that nobody offers, and for an offer that does not load.
    """
    for kind in _BUILT_IN:
        if kind.name == name:
            return kind()
    points = tuple(entry_points(group=GROUP, name=name))
    if len(points) == 1:
        return _load(points[0])
    problem = "not known"
    if points:
        problem = f"offered by {len(points)} packages; uninstall all but one"
    raise DeviceError(f"accelerator {name}: {problem}; known are {', '.join(accelerator_names())}")


def _load(point: EntryPoint) -> Accelerator:
    where = f"accelerator {point.name}: entry point {point.value}"
    try:
        kind = point.load()
    except Exception as error:  # whatever another package's module may raise
        reason = f"{type(error).__name__}: {error}"
        raise DeviceError(
            f"{where} does not load ({reason}); install its package again, with the libraries that "
            "it needs"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Accelerator)):
        raise DeviceError(
            f"{where} is {kind!r}, not a subclass of dougong.accelerators.base.Accelerator; see "
            "CONTRIBUTING.md"
        )
    try:
        return kind()
    except TypeError as error:
        raise DeviceError(f"{where} is not whole: {error}; see CONTRIBUTING.md") from error
