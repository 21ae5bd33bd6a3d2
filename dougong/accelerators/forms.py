"""The facts of an accelerator, each with its form, so that a package's mistake is found when it is
loaded and not where the fact is first used."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from dougong.accelerators.facts import Default, PeakRates, Refused, Standing


@dataclass(frozen=True)
class FactForm:
    """What a fact must be: in words, and whether a value is so."""

    words: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Fact:
    """A class attribute of an accelerator. `meaning`: for people who write one."""

    name: str
    form: FactForm
    meaning: str


def wrong_facts(kind: type[Any]) -> Iterator[str]:
    """Of each fact that a class gives in another form: what it is, and what is wanted."""
    for fact in (*FACTS, *GENERIC_FACTS):
        if hasattr(kind, fact.name):
            given = getattr(kind, fact.name)
            if not fact.form.fits(given):
                yield (
                    f"{fact.name} is {reprlib.repr(given)} ({type(given).__name__}), and must be "
                    f"{fact.form.words}"
                )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_pattern(value: Any) -> bool:
    try:
        re.compile(value)
    except (re.error, TypeError):
        return False
    return _is_text(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_row(value: Any) -> bool:
    return isinstance(value, tuple | list)


def _are_words(value: Any) -> bool:
    return _is_row(value) and all(map(_is_word, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _is_default(value: Any) -> bool:
    if not isinstance(value, Default):
        return False
    return _is_word(value.variable) and _is_text(value.value) and _are_words(value.aliases)


def _is_refused(value: Any) -> bool:
    if not isinstance(value, Refused):
        return False
    return _is_word(value.variable) and _is_text(value.value) and _is_word(value.reason)


def _are_rates(value: Any) -> bool:
    if not isinstance(value, PeakRates):
        return False
    is_named = _is_word(value.model) and _is_word(value.source)
    return is_named and _mapping(_is_number)(value.per_s)


def _row_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: _is_row(value) and all(map(fits, value))


def _mapping(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is a mapping of words to what fits."""

    def check(value: Any) -> bool:
        if not isinstance(value, Mapping):
            return False
        return all(map(_is_word, value)) and all(map(fits, value.values()))

    return check


_TEXT = FactForm("text", _is_text)
_WORD = FactForm("text that is not empty", _is_word)
_WORD_OR_NONE = FactForm(
    "text that is not empty, or None", lambda value: value is None or _is_word(value)
)
_FLAG = FactForm("True or False", _is_flag)
_WORDS = FactForm("a tuple of texts that are not empty", _are_words)
_EXPRESSION = FactForm("text that is a regular expression", _is_pattern)
_PLACE = FactForm("text with one `{}`", lambda value: _is_text(value) and value.count("{}") == 1)
_STANDING = FactForm(
    " or ".join(f"`{one}`" for one in get_args(Standing)),
    lambda value: isinstance(value, str) and value in get_args(Standing),
)
_VARIABLES = FactForm("a mapping of variables to texts", _mapping(_is_text))
_SWITCHES = FactForm("a mapping of places in torch to True or False", _mapping(_is_flag))
_DEFAULTS = FactForm(
    "a tuple of `facts.Default(variable, value, aliases)`: two texts and a tuple of texts",
    _row_of(_is_default),
)
_REFUSED = FactForm(
    "a tuple of `facts.Refused(variable, value, reason)`: three texts", _row_of(_is_refused)
)
_RATES = FactForm(
    "a tuple of `facts.PeakRates(model, per_s, source)`: text, a mapping of dtypes to FLOP/s, text",
    _row_of(_are_rates),
)

FACTS = (
    Fact("name", _WORD, "what a job file says; the entry point's name, too"),
    Fact("backend", _WORD, "torch's name of the collective library inside an island"),
    Fact("resource", _WORD_OR_NONE, "Ray's name for one device; None where workers share the CPUs"),
    Fact("visible_devices_variable", _WORD_OR_NONE, "narrows which devices a process sees"),
    Fact("interface_variable", _WORD_OR_NONE, "tells the library its network interface"),
    Fact("interface_form", _PLACE, "how the interface is written there"),
    Fact("shares_machine", _FLAG, "all workers of a machine share one device"),
    Fact("arithmetic_variables", _WORDS, "beginnings of variables that can change bits: recorded"),
    Fact("agreed_variables", _WORDS, "variables that all workers of an island must have alike"),
    Fact("defaults", _DEFAULTS, "of workers; `aliases`: where one of them is set, it stands"),
    Fact("refused", _REFUSED, "values of variables that break what `determinism` promises"),
    Fact("title", _TEXT, "the vendor and its devices, for messages"),
    Fact("standing", _STANDING, "how far it has been tried"),
    Fact("also_called", _WORDS, "what people call it"),
    Fact("tool", _TEXT, "the vendor's command that shows devices, for messages"),
    Fact("fused_operators", _WORDS, "modules of `dougong.ops` that `expert_operators` yields from"),
    Fact("peak_rates", _RATES, "by model and dtype, with the vendor's document"),
    Fact("tells_health", _FLAG, "the class has `telemetry` and `device_keys`"),
)
"""Of every kind of device."""

GENERIC_FACTS = (
    Fact("device_type", _WORD, "what torch calls the device"),
    Fact("plugin", _TEXT, "the module that adds it to torch; empty where torch has it"),
    Fact("package", _TEXT, "the package that holds that module"),
    Fact("build", _TEXT, "its name in `torch.version`, where torch itself is built for it"),
    Fact("build_tag", _EXPRESSION, "such a torch's version behind its `+`"),
    Fact("install", _TEXT, "what to do where it does not load, for messages"),
    Fact("device_files", _TEXT, "a pattern of one file a device, by which an agent counts them"),
    Fact("environment", _VARIABLES, "of workers, before torch is imported"),
    Fact("deterministic_environment", _VARIABLES, "of a deterministic job's workers"),
    Fact("exact_switches", _SWITCHES, "keep a device from shortening its inputs"),
)
"""Of a `GenericAccelerator`, besides."""
