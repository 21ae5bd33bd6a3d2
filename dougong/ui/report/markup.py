"""HTML and SVG by one function that escapes whatever is not markup already. Nothing else in the
report writes a tag."""

from __future__ import annotations

import html

_VOID = frozenset({"meta", "br", "hr", "link"})


class Markup(str):
    """Text that is markup already and must not be escaped again."""

    __slots__ = ()


Content = str | int | float | None


def tag(name: str, /, *children: Content, **attributes: str | int | float | bool | None) -> Markup:
    """`tag("td", "a < b", class_="x")`. `class_` is `class`, `a_b` is `a-b`; None and False leave
    an attribute out."""
    parts = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        word = key.rstrip("_").replace("_", "-")
        parts.append(f" {word}" if value is True else f' {word}="{html.escape(_text(value))}"')
    head = f"<{name}{''.join(parts)}>"
    return Markup(head if name in _VOID else f"{head}{join(*children)}</{name}>")


def join(*children: Content) -> Markup:
    """Children side by side; None is nothing."""
    return Markup(
        "".join(
            c if isinstance(c, Markup) else html.escape(_text(c)) for c in children if c is not None
        )
    )


def _text(value: str | int | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
