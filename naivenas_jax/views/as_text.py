"""Views and tables of rich as plain text."""

from __future__ import annotations

import io

from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from naivenas_jax.views.view import Part, Picture, Table, View, Words


def as_text(table: RenderableType) -> str:
    """What rich shows, as text of at most 140 columns, whatever the terminal is."""
    text = io.StringIO()
    Console(file=text, width=140, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def as_rich(shown: View) -> RenderableType:
    """A view as rich shows it in a terminal. Pictures are left to those who can draw them.

    Args:
      shown: the view.

    >>> print(as_text(as_rich((Words(("[bold] is text",)),))))
    [bold] is text
    """
    return Group(*(each for part in shown if (each := _part(part)) is not None))


def _part(part: Part | None) -> RenderableType | None:
    match part:
        case Words(lines, heading):
            return Text("\n".join(lines), style="bold" if heading else "")
        case Table():
            return _table(part)
        case Picture():
            return _part(part.instead)
        case None:
            return None


def _table(table: Table) -> RichTable:
    made = RichTable(title=table.title and Text(table.title, style="bold"), title_justify="left")
    for number, name in enumerate(table.columns):
        made.add_column(Text(name), justify="right" if number in table.numbers else "left", overflow="fold")
    for row in table.rows:
        made.add_row(*map(Text, row))
    return made
