"""How an accelerator's methods are called and what they must return, so that a package's mistake is
told with its package and method, and not where the value is used."""

from __future__ import annotations

import functools
import inspect
import reprlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

from dougong.accelerators.forms import (
    DIFFERENT_WORDS,
    TEXT,
    TEXTS,
    VARIABLES,
    ValueForm,
    is_count,
    is_number,
    or_none,
)
from dougong.accelerators.telemetry.reading import Telemetry
from dougong.error_words import reason_words
from dougong.errors import DeviceError, DougongError

T = TypeVar("T")
_EXPERTS = "expert_operators"


def _is_device(value: Any) -> bool:
    import torch

    return isinstance(value, torch.device)


def _is_iterator(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)


def _is_telemetry(value: Any) -> bool:
    return isinstance(value, Telemetry)


def _is_size(value: Any) -> bool:
    return is_count(value) and value > 0


RETURNS: dict[str, ValueForm] = {
    "device_count": ValueForm("a whole number, or None", or_none(is_count)),
    "worker_environment": VARIABLES,
    "interface_variables": VARIABLES,
    "open": ValueForm("a torch.device", _is_device),
    "describe": TEXTS,
    "memory_bytes": ValueForm("a whole number of bytes, or None", or_none(_is_size)),
    "peak_rate": ValueForm("a number of FLOP/s, or None", or_none(is_number)),
    "missing": TEXT,
    "telemetry": ValueForm("a Telemetry, or None", or_none(_is_telemetry)),
    "device_keys": DIFFERENT_WORDS,
    "names": DIFFERENT_WORDS,
    "driver": TEXT,
    _EXPERTS: ValueForm("an iterator of operators", _is_iterator),
}
"""By method; nothing is asked of what the others return."""
_PROMISED = ("telemetry", "device_keys", _EXPERTS)


def wrong_methods(kind: type[Any], base: type[Any]) -> Iterator[str]:
    """Of each method that cannot be called as `base`'s is: its arguments, and those that it is
    given. The class itself is called with none."""
    try:
        inspect.signature(kind).bind()
    except (TypeError, ValueError) as error:
        yield f"{kind.__name__}() is called without arguments ({error})"
    for name, wanted in inspect.getmembers(base, inspect.isfunction):
        given = getattr(kind, name, None)
        if name.startswith("_") or given is getattr(base, name):
            continue
        if not callable(given):
            yield f"{name} is {given!r}, and must be a method"
        elif not _takes(given, inspect.signature(wanted), _has_self(kind, name)):
            yield f"{name}{inspect.signature(given)} is called as {name}{inspect.signature(wanted)}"


def broken_promises(kind: type[Any], base: type[Any]) -> Iterator[str]:
    """Of facts that say of a class what its methods do not: `base`'s own do nothing."""
    offers = {name: getattr(kind, name) is not getattr(base, name) for name in _PROMISED}
    if kind.tells_health:
        lacking = [f"{name}()" for name in ("telemetry", "device_keys") if not offers[name]]
        if lacking:
            yield f"tells_health is True, and there is no {' and no '.join(lacking)}"
    elif offers["telemetry"] and not _states(kind, base, "tells_health"):
        yield "telemetry() is there, and tells_health is not True, so that nobody calls it"
    if kind.fused_operators and not offers[_EXPERTS]:
        yield f"fused_operators is {kind.fused_operators!r}, and there is no {_EXPERTS}()"


def _states(kind: type[Any], base: type[Any], name: str) -> bool:
    return any(name in vars(part) for part in kind.__mro__ if part not in base.__mro__)


@functools.cache
def held(kind: type[T], base: type[Any], where: str) -> type[T]:
    """The class with each method that is not `base`'s own held to what it must return. `where`:
    whose it is, for the DeviceError that says otherwise; so is whatever it raises but an error of
    our family, or of the device itself."""
    made = types.new_class(kind.__name__, (kind,))
    made.__module__, made.__qualname__ = kind.__module__, kind.__qualname__
    for name, form in RETURNS.items():
        own = getattr(kind, name, None)
        if own is not None and own is not getattr(base, name, None):
            setattr(made, name, _held_method(made, name, form, where))
    return cast("type[T]", made)


def _held_method(made: type[Any], name: str, form: ValueForm, where: str) -> Callable[..., Any]:
    own = getattr(super(made, made), name)

    @functools.wraps(own)
    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        bound = getattr(super(made, self), name)
        value = called(lambda: bound(*arguments, **named), f"{where}: {name}()")
        wanted = _of_type(form, made) if name == "open" else form
        if not wanted.fits(value):
            raise _wrong(where, f"{name}() has returned {_told(value)}", wanted.words)
        return _operators(value, where) if name == _EXPERTS else value

    return method


def called(call: Callable[[], T], what: str) -> T:
    """What a package's code gives; DeviceError for what it raises. `what`: whose code, in words."""
    try:
        return call()
    except (DougongError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # whatever another package's code may raise
        if _is_of_device(error):
            raise
        raise DeviceError(
            f"{what} has raised {reason_words(error, named=True)}; correct it in the package, or "
            "have it raise dougong.errors.DeviceError with what a person is to do"
        ) from error


def _wrong(where: str, found: str, wanted: str) -> DeviceError:
    return DeviceError(
        f"{where}: {found}, and must return {wanted}; correct it in the package (CONTRIBUTING.md, "
        "An accelerator, says what each method is for)"
    )


def _told(value: Any) -> str:
    return f"{reprlib.repr(value)} ({type(value).__name__})"


def _of_type(form: ValueForm, kind: type[Any]) -> ValueForm:
    """A device of another type than the class states would compute elsewhere, in silence."""
    wanted = getattr(kind, "device_type", None)
    if wanted is None:
        return form
    words = f"{form.words} of type {wanted}"
    return ValueForm(words, lambda value: form.fits(value) and value.type == wanted)


def _operators(values: Iterable[Any], where: str) -> Iterator[Any]:
    for value in values:
        if not all(callable(getattr(value, part, None)) for part in ("forward", "backward")):
            raise _wrong(
                where,
                f"{_EXPERTS}() has yielded {_told(value)}",
                "operators with a forward and a backward (dougong.ops.experts.base.ExpertOp)",
            )
        yield value


def _is_of_device(error: BaseException) -> bool:
    """A fault of the device, or a lack of its memory: what is done about it rests on its class."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return False
    return isinstance(error, torch.AcceleratorError | torch.OutOfMemoryError)


def _has_self(kind: type[Any], name: str) -> bool:
    """Whether the function that the class gives by this name takes the instance, too."""
    return not isinstance(inspect.getattr_static(kind, name), (staticmethod, classmethod))


def _takes(given: Any, wanted: inspect.Signature, has_self: bool) -> bool:
    """Whether a method can be called with all arguments of another one, in order and by name."""
    instance = [None] if has_self else []
    names = list(wanted.parameters)[1:]
    try:
        signature = inspect.signature(given)
        signature.bind(*instance, *([None] * len(names)))
        signature.bind(*instance, **dict.fromkeys(names))
    except (TypeError, ValueError):
        return False
    return True
