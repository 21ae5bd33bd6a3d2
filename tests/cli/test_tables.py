"""Tables for people, as a pipe gets them."""

from __future__ import annotations

import pytest
from dougong.cli.tables import plain_table, print_table


def test_a_pipe_gets_long_cells_in_one_line_and_no_markup_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    table = plain_table("worker", "experts")
    table.add_row("east/0", "0-3 " * 60)
    table.add_row("west/10", "[bold]4[/bold]")
    print_table(table)
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["worker", "experts"]
    assert first.split() == ["east/0", *["0-3"] * 60]
    assert second.split() == ["west/10", "[bold]4[/bold]"]
    assert head.index("experts") == first.index("0-3") == second.index("[bold]")
