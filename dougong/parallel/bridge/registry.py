"""From a name in the job file to the bridge it means, and which bridge joins which islands."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from dougong.bridge_names import GROUP, HOST, bridge_names
from dougong.errors import DeviceError
from dougong.parallel.bridge.base import Bridge
from dougong.parallel.bridge.host import HostBridge


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
    where = f"bridge {point.name}: entry point {point.value}"
    try:
        kind = point.load()
    except Exception as error:  # whatever another package's module may raise
        reason = f"{type(error).__name__}: {error}"
        raise DeviceError(
            f"{where} does not load ({reason}); install its package again, with the libraries that "
            "it needs, or set bridge: host"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Bridge)):
        raise DeviceError(
            f"{where} is {kind!r}, not a subclass of dougong.parallel.bridge.base.Bridge; see "
            "docs/design/bridge.md, or set bridge: host"
        )
    try:
        return kind()
    except TypeError as error:
        raise DeviceError(
            f"{where} is not whole: {error}; see docs/design/bridge.md, or set bridge: host"
        ) from error
