"""A history as a table, a picture and a chart: each network under its first parent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from naivenas_jax.search.lineage.history_entry import HistoryEntry, Value
from naivenas_jax.show.drawing.mermaid_text import quoted

_ROW, _COLUMN, _LETTER = 22, 18, 6.2
_LINE, _DOT, _CROSSED = "#90a4ae", "#37617d", "#c9822b"
_LONGEST = 60
_FONT = 'font-family="sans-serif" font-size="11"'


class Row(NamedTuple):
    """A network in the order of a tree.

    Attributes:
      entry: what is known of it.
      guides: what is written before its name, so that the lines show where it hangs.
      column: how far to the right it hangs. An only child hangs where its parent does.
    """

    entry: HistoryEntry
    guides: str
    column: int


def rows(entries: Mapping[str, HistoryEntry]) -> Iterator[Row]:
    """All networks, each behind its first parent and what came of its elder siblings."""
    children: dict[str, list[str]] = {name: [] for name in entries}
    for name, entry in entries.items():
        if entry.parents:
            children[entry.parents[0]].append(name)
    waiting = [(name, "● ", "") for name, entry in entries.items() if not entry.parents][::-1]
    while waiting:
        name, guides, base = waiting.pop()
        yield Row(entries[name], guides, len(base) // 2)
        own = children[name]
        if len(own) == 1:
            waiting.append((own[0], f"{base}○ ", base))
        else:
            last = len(own) - 1
            drawn = [("└─○ ", "  ") if i == last else ("├─○ ", "│ ") for i in range(len(own))]
            found = [(child, base + mark, base + line) for child, (mark, line) in zip(own, drawn, strict=True)]
            waiting += found[::-1]


def table(entries: Mapping[str, HistoryEntry]) -> Table:
    """A row for each network: its name in the tree, what was done, parameters, and what the user noted."""
    measured = dict.fromkeys(key for entry in entries.values() for key in entry.values)
    found = Table()
    found.add_column("network", no_wrap=True)
    found.add_column("change", overflow="fold")
    found.add_column("parameters", justify="right")
    for key in measured:
        found.add_column(Text(key), justify="right")
    for row in rows(entries):
        entry = row.entry
        noted = (as_word(entry.values.get(key)) for key in measured)
        found.add_row(*map(Text, (f"{row.guides}{entry.name}", _change(entry), _count(entry.parameters), *noted)))
    return found


def as_word(value: Value) -> str:
    """A value as it is shown."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _change(entry: HistoryEntry) -> str:
    others = entry.parents[1:]
    return f"{entry.change} (with {', '.join(others)})" if others else entry.change


def svg(entries: Mapping[str, HistoryEntry]) -> str:
    """The tree as the text of an SVG image; dashed lines lead from the second parents of crossovers."""
    drawn = list(rows(entries))
    at = {row.entry.name: (12 + _COLUMN * row.column, 14 + _ROW * i) for i, row in enumerate(drawn)}
    ends = [at[row.entry.name][0] + 10 + _LETTER * len(row.entry.name) for row in drawn]
    left = max(ends, default=0) + 16
    lines = "".join(_lines(row.entry, at) for row in drawn)
    words = [_words(row.entry) for row in drawn]
    texts = "".join(_drawn(row.entry, text, left, *at[row.entry.name]) for row, text in zip(drawn, words, strict=True))
    width = left + _LETTER * max(map(len, words), default=0) + 10
    size = f'width="{width:.0f}" height="{_ROW * len(drawn) + 8}"'
    # names have a white rim, since the lines of second parents pass behind them
    rim = ".nas-history text{paint-order:stroke;stroke:white;stroke-width:3px}"
    style = f"<style>.nas-history{{background:white}}{rim}</style>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="nas-history" role="img" {size} {_FONT}>'
    return f"{head}<title>Which network came from which</title>{style}{lines}{texts}</svg>"


def _words(entry: HistoryEntry) -> str:
    """What is written beside a network."""
    change = _change(entry)
    short = change if len(change) <= _LONGEST else f"{change[: _LONGEST - 1]}…"
    size = [] if entry.parameters is None else [f"{entry.parameters:,} parameters"]
    return "  ·  ".join([short, *size, *(f"{key} {as_word(value)}" for key, value in entry.values.items())])


def _lines(entry: HistoryEntry, at: Mapping[str, tuple[int, int]]) -> str:
    """A line from each parent."""
    x, y = at[entry.name]
    found = ""
    for number, parent in enumerate(entry.parents):
        px, py = at[parent]
        bend = f"V{y - 6} Q{px} {y} {min(px + 6, x)} {y} H{x}" if px < x else f"L{x} {y}"
        away = max(px, x) + 60
        path = f"M{px} {py} C{away} {py} {away} {y} {x} {y}" if number else f"M{px} {py} {bend}"
        dashes = ' stroke-dasharray="3 3"' if number else ""
        found += f'<path d="{path}" fill="none" stroke="{_CROSSED if number else _LINE}"{dashes}/>'
    return found


def _drawn(entry: HistoryEntry, text: str, left: float, x: int, y: int) -> str:
    """A dot with a name, and what is known of the network."""
    colour = _CROSSED if len(entry.parents) > 1 else _DOT
    filled = colour if len(entry.parents) != 1 else "white"
    title = escape("\n".join([_change(entry), *entry.notes]))
    return (
        f'<g><title>{title}</title><circle cx="{x}" cy="{y}" r="4.5" fill="{filled}" stroke="{colour}"/>'
        f'<text x="{x + 10}" y="{y + 4}" font-weight="bold">{escape(entry.name)}</text>'
        f'<text x="{left:.0f}" y="{y + 4}">{escape(text)}</text></g>'
    )


def mermaid(entries: Mapping[str, HistoryEntry]) -> str:
    """The history as a Mermaid flow chart; dotted arrows come from the second parents of crossovers."""
    number = {name: f"n{i}" for i, name in enumerate(entries)}
    lines = ["flowchart TD"]
    for name, entry in entries.items():
        noted = "".join(f"<br>{quoted(key)}: {quoted(as_word(value))}" for key, value in entry.values.items())
        lines.append(f'    {number[name]}["{quoted(name)}{noted}"]')
    for name, entry in entries.items():
        for i, parent in enumerate(entry.parents):
            arrow = "-.->" if i else f'-- "{quoted(entry.change)}" -->'
            lines.append(f"    {number[parent]} {arrow} {number[name]}")
    return "\n".join(lines)
