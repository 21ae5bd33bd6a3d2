"""The facts of an accelerator, each with its form, so that a package's mistake is found when it is
loaded and not where the fact is first used."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dougong.accelerators.facts import Default, PeakRates, Refused, Standing


@dataclass(frozen=True)
class ValueForm:
    """What a fact, or what a method returns, must be: in words, and whether a value is so."""

    words: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Fact:
    """A class attribute of an accelerator. `meaning`: for people who write one."""

    name: str
    form: ValueForm
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


def unknown_names(kind: type[Any], base: type[Any], *more: type[Any]) -> Iterator[str]:
    """Of each public name that a class states and nobody asks for, with the one that was meant:
    what is misspelt would be left at its default. Of methods only those count that are nearly one
    that is known, as others are the class's own. `base`: of all kinds of device; `more`: others
    whose names are known."""
    known = {fact.name for fact in (*FACTS, *GENERIC_FACTS)} | _public((*kind.__mro__, *more), base)
    for part in kind.__mro__:
        if not issubclass(part, base) or _is_ours(part):
            continue
        for name, value in vars(part).items():
            if name.startswith("_") or name in known:
                continue
            is_method = callable(getattr(part, name, value)) or inspect.isdatadescriptor(value)
            meant = _near(name, known, _NEARLY if is_method else _ROUGHLY)
            if meant or not is_method:
                guess = f" (did you mean {meant}?)" if meant else ""
                yield (
                    f"{name} is no {'method' if is_method else 'fact'} that anybody asks for{guess}"
                    "; begin the name of what is the package's own with an underscore"
                )


_ROUGHLY, _NEARLY = 0.6, 0.85
"""How alike two words are, of 1, for the one to be meant by the other."""


def _is_ours(kind: type[Any]) -> bool:
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]


def _public(kinds: Collection[type[Any]], base: type[Any]) -> set[str]:
    """The names that our own classes among these have."""
    ours = [kind for kind in kinds if issubclass(kind, base) and _is_ours(kind)]
    names: set[str] = set().union(*map(vars, ours))
    return {name for name in names if not name.startswith("_")}


def _near(name: str, known: Collection[str], cutoff: float) -> str | None:
    """The known name that is most like this one, or that is a part of it."""
    close = difflib.get_close_matches(name, sorted(known), 1, cutoff)
    parts = [one for one in sorted(known) if cutoff == _ROUGHLY and one in name.split("_")]
    return next(iter([*close, *parts]), None)


def or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is None, or fits."""
    return lambda value: value is None or fits(value)


def is_count(value: Any) -> bool:
    """Whether a value is a whole number that something can be counted by."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_variable(value: Any) -> bool:
    """Whether an environment takes such a name of a variable."""
    return _is_word(value) and not {"=", "\0"} & set(value)


def _is_setting(value: Any) -> bool:
    """Whether an environment takes such a value of a variable."""
    return _is_text(value) and "\0" not in value


def _is_slot(value: Any) -> bool:
    """Whether `format` puts one text, and nothing else, into a value."""
    if not _is_setting(value) or value.count("{}") != 1:
        return False
    try:
        return bool(value.format("eth0") != value.format("eth1"))  # `{{}}` would take none
    except (LookupError, ValueError, AttributeError):  # another place beside it, such as `{0.x}`
        return False


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


def _are_different(value: Any) -> bool:
    return _are_words(value) and len(set(value)) == len(value)


def _are_variables(value: Any) -> bool:
    return _is_row(value) and all(map(_is_variable, value))


def _is_place(value: Any) -> bool:
    """Whether a value is a dotted name below torch."""
    if not _is_word(value):
        return False
    first, *others = value.split(".")
    return bool(others) and first != "torch" and all(map(str.isidentifier, (first, *others)))


def _is_operator_module(value: Any) -> bool:
    if not _is_word(value) or not all(map(str.isidentifier, value.split("."))):
        return False
    return _OPS.joinpath(*value.split(".")).with_suffix(".py").is_file()


def _is_dtype(value: Any) -> bool:
    return _is_word(value) and _DTYPE.fullmatch(value) is not None


def _is_default(value: Any) -> bool:
    if not isinstance(value, Default):
        return False
    is_set = _is_variable(value.variable) and _is_setting(value.value)
    return is_set and _are_variables(value.aliases)


def _is_refused(value: Any) -> bool:
    if not isinstance(value, Refused):
        return False
    is_set = _is_variable(value.variable) and _is_setting(value.value)
    return is_set and _is_word(value.reason)


def _are_rates(value: Any) -> bool:
    if not isinstance(value, PeakRates):
        return False
    is_named = _is_word(value.model) and _is_word(value.source)
    return is_named and _mapping(is_number, _is_dtype)(value.per_s)


def _row_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: _is_row(value) and all(map(fits, value))


def _mapping(
    fits: Callable[[Any], bool], is_key: Callable[[Any], bool] = _is_word
) -> Callable[[Any], bool]:
    """Whether a value is a mapping of keys, words at least, to what fits."""

    def check(value: Any) -> bool:
        if not isinstance(value, Mapping):
            return False
        return all(map(is_key, value)) and all(map(fits, value.values()))

    return check


_OPS = Path(__file__).parents[1] / "ops"
_DTYPE = re.compile(r"(float|bfloat|int|uint)[0-9]+(_[a-z0-9]+)?")

TEXT = ValueForm("text", _is_text)
_WORD = ValueForm("text that is not empty", _is_word)
_WORD_OR_NONE = ValueForm("text that is not empty, or None", or_none(_is_word))
_VARIABLE_OR_NONE = ValueForm("a variable's name (without `=`), or None", or_none(_is_variable))
_FLAG = ValueForm("True or False", _is_flag)
WORDS = ValueForm("a tuple of texts that are not empty", _are_words)
DIFFERENT_WORDS = ValueForm(
    "a tuple of texts that are not empty, no two of them alike", _are_different
)
_VARIABLE_NAMES = ValueForm("a tuple of texts that are not empty, without `=`", _are_variables)
_EXPRESSION = ValueForm("text that is a regular expression", _is_pattern)
_SLOT = ValueForm("text with one `{}`, and no other braces but `{{` and `}}`", _is_slot)
_STANDING = ValueForm(
    " or ".join(f"`{one}`" for one in get_args(Standing)),
    lambda value: isinstance(value, str) and value in get_args(Standing),
)
TEXTS = ValueForm("a mapping of texts to texts", _mapping(_is_text))
VARIABLES = ValueForm(
    "a mapping of variables (names without `=`) to texts, without NUL in either",
    _mapping(_is_setting, _is_variable),
)
_SWITCHES = ValueForm(
    "a mapping of places in torch, such as `backends.mkldnn.enabled`, to True or False",
    _mapping(_is_flag, _is_place),
)
_OPERATORS = ValueForm("a tuple of modules of `dougong.ops`", _row_of(_is_operator_module))
_DEFAULTS = ValueForm(
    "a tuple of `facts.Default(variable, value, aliases)`: two texts and a tuple of texts",
    _row_of(_is_default),
)
_REFUSED = ValueForm(
    "a tuple of `facts.Refused(variable, value, reason)`: three texts", _row_of(_is_refused)
)
_RATES = ValueForm(
    "a tuple of `facts.PeakRates(model, per_s, source)`: text, a mapping of torch's dtypes to "
    "numbers of FLOP/s, text",
    _row_of(_are_rates),
)

FACTS = (
    Fact("name", _WORD, "what a job file says; the entry point's name, too"),
    Fact("backend", _WORD, "torch's name of the collective library inside an island"),
    Fact("resource", _WORD_OR_NONE, "Ray's name for one device; None where workers share the CPUs"),
    Fact("visible_devices_variable", _VARIABLE_OR_NONE, "narrows which devices a process sees"),
    Fact("interface_variable", _VARIABLE_OR_NONE, "tells the library its network interface"),
    Fact("interface_form", _SLOT, "how the interface is written there"),
    Fact("shares_machine", _FLAG, "all workers of a machine share one device"),
    Fact(
        "fused_attention",
        _FLAG,
        "torch's attention makes no matrix of scores: what a plan counts of its memory",
    ),
    Fact(
        "arithmetic_variables",
        _VARIABLE_NAMES,
        "beginnings of variables that can change bits: recorded",
    ),
    Fact(
        "agreed_variables",
        _VARIABLE_NAMES,
        "variables that all workers of an island must have alike",
    ),
    Fact("defaults", _DEFAULTS, "of workers; `aliases`: where one of them is set, it stands"),
    Fact("refused", _REFUSED, "values of variables that break what `determinism` promises"),
    Fact("title", TEXT, "the vendor and its devices, for messages"),
    Fact("standing", _STANDING, "how far it has been tried"),
    Fact("also_called", WORDS, "what people call it"),
    Fact("tool", TEXT, "the vendor's command that shows devices, for messages"),
    Fact("fused_operators", _OPERATORS, "those that `expert_operators` yields from"),
    Fact("peak_rates", _RATES, "by model and dtype, with the vendor's document"),
    Fact("tells_health", _FLAG, "the class has `telemetry` and `device_keys`"),
)
"""Of every kind of device."""

GENERIC_FACTS = (
    Fact("device_type", _WORD, "what torch calls the device"),
    Fact("plugin", TEXT, "the module that adds it to torch; empty where torch has it"),
    Fact("package", TEXT, "the package that holds that module"),
    Fact("build", TEXT, "its name in `torch.version`, where torch itself is built for it"),
    Fact("build_tag", _EXPRESSION, "such a torch's version behind its `+`"),
    Fact("install", TEXT, "what to do where it does not load, for messages"),
    Fact(
        "device_files",
        TEXT,
        "a pattern of one file a device, by which an agent counts them; needed without `names()`",
    ),
    Fact("environment", VARIABLES, "of workers, before torch is imported"),
    Fact("deterministic_environment", VARIABLES, "of a deterministic job's workers"),
    Fact("exact_switches", _SWITCHES, "keep a device from shortening its inputs"),
)
"""Of a `GenericAccelerator`, besides."""
