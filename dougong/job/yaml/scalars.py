"""What YAML 1.2's plain scalars mean, and one value written so that YAML 1.1 agrees.

The core schema's surprises are fewer than YAML 1.1's: `1e-3` is a number, `no` and `on` are text,
`010` is ten, a date is text.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

TAG = "tag:yaml.org,2002:"
_FLOAT = (
    r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
# An integer also looks like a float; the first pattern that matches wins.
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
    ("merge", r"<<", ["<"]),
)

_YES_NO = re.compile(r"(?i:yes|no|on|off|y|n)")


class Loader(yaml.SafeLoader):
    """A loader with a table of scalars of its own, in place of YAML 1.1's."""


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would misread."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Any other style would spread an unprintable text over several lines.
        style = None if data.isprintable() else '"'
        return self.represent_scalar(TAG + "str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)
Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _SCALARS:
    Loader.add_implicit_resolver(TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)
# SafeDumper quotes what YAML 1.1 would misread; this adds what only 1.2 reads as a number.
# Single letters are truth values to YAML 1.1, though not to SafeDumper, and refused where we read.
_Dumper.add_implicit_resolver(TAG + "bool", re.compile(r"^[yYnN]$"), list("yYnN"))
_Dumper.add_implicit_resolver(TAG + "float", re.compile(rf"^(?:{_FLOAT})$"), list("-+0123456789."))


def write_flow(value: Any) -> str:
    """One value on one line, as YAML that readers of version 1.2 and of 1.1 read back the same."""
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        width=math.inf,
        sort_keys=False,
        allow_unicode=True,
    )
    return text.removesuffix("\n").removesuffix("\n...")


def construct(tag: str, text: str) -> Any:
    """A scalar's value. ValueError or KeyError for a text that is none of its tag."""
    tag = tag.removeprefix(TAG)
    if tag == "str":
        # Half of a surrogate pair is a ValueError.
        text.encode()
        return text
    if tag == "null":
        return None
    if tag == "bool":
        return {"true": True, "false": False}[text.lower()]
    if tag == "int":
        plain = text.replace("_", "")
        return int(plain, 0) if plain.startswith(("0o", "0x")) else int(plain)
    if tag == "float":
        plain = text.lower().replace("_", "")
        return float(re.sub(r"\.(?=inf|nan)", "", plain))
    raise KeyError(tag)


def is_yes_no(node: yaml.ScalarNode) -> bool:
    """Whether an unquoted text is a truth value to readers of YAML 1.1."""
    if node.style is not None or node.tag != TAG + "str":
        return False
    return _YES_NO.fullmatch(node.value) is not None
