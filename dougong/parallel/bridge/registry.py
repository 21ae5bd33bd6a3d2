"""From a name in the job file to the bridge it means, and which bridge joins which islands."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from dougong.bridge_names import GROUP, HOST, bridge_names
from dougong.errors import DeviceError
from dougong.offers import offered_class
from dougong.parallel.bridge.base import Bridge
from dougong.parallel.bridge.host import HostBridge

_PAGE, _OTHERWISE = "docs/design/bridge.md", ", or set bridge: host"


def get_bridge(name: str) -> Bridge:
    """The bridge called `name`; a package may add one as an entry point of the group
    dougong.bridges.

    Raises DeviceError for a name that nobody offers, and for an offer that does not load.
    """
    if name == HOST:
        return HostBridge()
    points = tuple(entry_points(group=GROUP, name=name))
    if len(points) == 1:
        return _load(points[0])
    problem = "not known"
    if points:
        problem = f"offered by {len(points)} packages; uninstall all but one"
    raise DeviceError(f"bridge {name}: {problem}; known are {', '.join(bridge_names())}")


def _load(point: EntryPoint) -> Bridge:
    base: type[Bridge] = Bridge  # type: ignore[type-abstract]
    kind = offered_class(point, base, "bridge", _PAGE, _OTHERWISE)
    try:
        return kind()
    except TypeError as error:
        raise DeviceError(
            f"bridge {point.name}: entry point {point.value} is not whole: {error}; see "
            f"{_PAGE}{_OTHERWISE}"
        ) from error
