"""Tables for people, without lines, that a pipe gets in full."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

WIDE = 10_000
"""Columns of a pipe or a file: nothing is folded there."""


def plain_table(*columns: str) -> Table:
    """An empty table without a frame. Cells are added as plain text, by `add_row`."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def print_table(table: Table) -> None:
    """To standard output. On a terminal, long cells are folded to its width."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    console.print(table)
