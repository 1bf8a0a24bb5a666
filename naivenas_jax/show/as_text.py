"""Tables as plain text."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table


def as_text(table: Table) -> str:
    """A table as text of at most 140 columns, whatever the terminal is."""
    text = io.StringIO()
    Console(file=text, width=140).print(table)
    return text.getvalue().rstrip()
