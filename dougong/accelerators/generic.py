"""An accelerator as data: whatever torch.accelerator and a vendor's device module do alike.

A new kind of device is a subclass with a few lines of facts. Where a vendor's library has ways of
its own, its class replaces a method.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import operator
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dougong.accelerators.base import (
    Accelerator,
    package_version,
    switch_on_determinism,
    thread_environment,
    visible_count,
)
from dougong.error_words import reason_words
from dougong.errors import DeviceError

if TYPE_CHECKING:
    import torch

_ONE_RELEASE = re.compile(r"torch\s*\(?\s*==\s*([0-9.]*[0-9])")
"""What a plug-in's metadata says when it is built for one release of torch."""


class GenericAccelerator(Accelerator):
    """One worker per device, of a kind that torch knows by itself or by a plug-in."""

    device_type: ClassVar[str]
    """What torch calls such a device: `torch.device(device_type, 0)`."""
    device_files: ClassVar[str] = ""
    """A pattern of paths: one file for each device of a machine, by which they are counted."""
    plugin: ClassVar[str] = ""
    """The module that adds the device to torch when it is imported; empty where torch has it."""
    package: ClassVar[str] = ""
    """The plug-in's package."""
    build: ClassVar[str] = ""
    """The name in `torch.version` that a build of torch for such devices has; empty where a plug-in
    adds them."""
    build_tag: ClassVar[str] = ""
    """What such a build's version has behind its `+`, as a pattern."""
    install: ClassVar[str] = "see the vendor's guide"
    """What makes such devices usable, to follow `is not installed; `."""
    environment: ClassVar[Mapping[str, str]] = {}
    """Of every worker."""
    deterministic_environment: ClassVar[Mapping[str, str]] = {}
    """Of a deterministic job's workers."""
    exact_switches: ClassVar[Mapping[str, bool]] = {}
    """Places in torch, such as `torch.backends.cudnn.allow_tf32` without its torch, and what is set
    there for a deterministic job, so that the device computes in the precision that a job names."""

    def device_count(self, visible: str | None = None) -> int | None:
        return visible_count(len(self.names()), visible)

    def names(self) -> list[str]:
        """Each device of this machine, as far as it is known without opening one."""
        pattern = self.device_files.removeprefix("/")
        return [path.name for path in sorted(Path("/").glob(pattern))] if pattern else []

    def driver(self) -> str:
        """The driver's version; empty where nothing tells it."""
        return ""

    def worker_environment(self, threads: int, deterministic: bool = True) -> dict[str, str]:
        variables = {**thread_environment(threads), **self.environment}
        return {**variables, **(self.deterministic_environment if deterministic else {})}

    def open(self, index: int, deterministic: bool = True) -> torch.device:
        import torch

        self._load()
        module: Any = torch.get_device_module(self.device_type)
        count = module.device_count()
        if index >= count:
            raise self._trouble(
                f"device {index} is asked for, torch sees {count}",
                f"lower islands.workers, {self._widen()}or check the driver{self._by_tool()}",
            )
        try:
            module.set_device(index)
        except RuntimeError as error:
            raise self._trouble(
                f"device {index} does not open ({reason_words(error)})",
                f"look at it{self._by_tool()}",
            ) from error
        if deterministic:
            switch_on_determinism()
            self.make_exact()
        return torch.device(self.device_type, index)

    def make_exact(self) -> None:
        """No shortened inputs, no kernel chosen by a race: speed that would change bits.

        DeviceError where the library does not know a switch.
        """
        import torch

        for place, value in self.exact_switches.items():
            owner, _, name = place.rpartition(".")
            try:
                holder = operator.attrgetter(owner)(torch)
                present = getattr(holder, name)
            except AttributeError as error:
                raise self._trouble(
                    f"exact_switches: torch.{place} is not there ({error}), so that nothing makes "
                    "it exact",
                    "correct its name, install a release of the plug-in that has it, or set "
                    "determinism: off",
                ) from error
            if not isinstance(present, bool | int | tuple):
                raise self._trouble(
                    f"exact_switches: torch.{place} is a {type(present).__name__}, and no switch",
                    "name an attribute of it that is True or False",
                )
            setattr(holder, name, value)

    def describe(self) -> dict[str, str]:
        found = {"name": ", ".join(self.names()) or "none", "driver": self.driver()}
        if self.package:
            found[self.package] = package_version(self.package) or "not installed"
        return found

    def missing(self) -> str:
        if self.build:
            version = package_version("torch") or "none"
            is_for_it = re.fullmatch(self.build_tag, version.partition("+")[2])
            return "" if is_for_it else f"torch {version} is not built for {self.title}"
        if self.package and package_version(self.package) is None:
            return f"{self.package} is not installed; {self.install}"
        return _mismatch(self.package)

    def _load(self) -> None:
        """Have torch know the device. Raises DeviceError that says what is there instead."""
        import torch

        version = torch.__version__
        if self.build and getattr(torch.version, self.build, None) is None:
            raise self._trouble(f"torch {version} is not built for {self.title}", self.install)
        if self.plugin:
            self._import_plugin()
        kind = torch.accelerator.current_accelerator()
        if kind is None and self.device_type == "cpu":
            raise self._trouble(
                "device_type is cpu, which is the processor, and no device that torch opens",
                "correct it in the package: have it state what torch calls the device, or have its "
                "class open what it pretends by an open() of its own",
            )
        if kind is None or kind.type != self.device_type:
            raise self._trouble(
                f"torch {version} knows the device {kind.type if kind else 'cpu'} in this process, "
                f"not {self.device_type}",
                "a process has one vendor's devices: keep each vendor's plug-in, and a build of "
                "torch that has none, in an environment of its own",
            )

    def _import_plugin(self) -> None:
        wrong = _mismatch(self.package)
        if wrong:
            raise self._trouble(wrong, "then start again")
        try:
            importlib.import_module(self.plugin)
        except (Exception, SystemExit) as error:  # whatever a vendor's module may raise
            reason = reason_words(error, named=True)
            raise self._trouble(f"{self.plugin} does not load ({reason})", self.install) from error

    def _trouble(self, problem: str, remedy: str) -> DeviceError:
        return DeviceError(f"accelerator {self.name}: {problem}; {self._found()}; {remedy}")

    def _found(self) -> str:
        names, driver = self.names(), self.driver()
        told = [f"{platform.node()} has {len(names)} of them"]
        if names:
            told[0] += f" ({', '.join(names)})"
        if driver:
            told.append(f"driver {driver}")
        if self.package:
            told.append(f"{self.package} {package_version(self.package) or 'not installed'}")
        return ", ".join(told)

    def _widen(self) -> str:
        variable = self.visible_devices_variable
        return f"widen {variable}, " if variable else ""

    def _by_tool(self) -> str:
        return f" with {self.tool}" if self.tool else ""


@functools.cache
def _mismatch(package: str) -> str:
    """That a plug-in is made for another torch than is installed, with the remedy; empty where its
    metadata says nothing of the kind."""
    if not package:
        return ""
    try:
        wishes = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    found = package_version("torch") or "none"
    torch_version = found.partition("+")[0]
    for release in filter(None, map(_ONE_RELEASE.match, wishes)):
        wanted = release[1]
        if not f"{torch_version}.".startswith(f"{wanted}."):
            return (
                f"{package} {package_version(package)} is made for torch {wanted}, and torch "
                f"{torch_version} is installed: pip install '{package}=={torch_version}.*'"
                f", or torch=={wanted}"
            )
    return ""
